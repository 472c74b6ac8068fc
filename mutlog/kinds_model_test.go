package mutlog_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	. "tidemark/mutlog"
)

// keyModel is what random pushes of composite resources under a quota must do,
// by the letter of rules 21 and 24.
type keyModel struct {
	owner map[string]string // of each resourceId: the key that it was made of
	live  map[string]int    // bytes of the data of each key that is live
	quota Count
	most  int64 // of the kind
}

// keyed is a mutation of a composite resource.
type keyed struct {
	kind, from, to string // from and to are JSON
	bytes          int
	named          bool // it has its resourceId, too
}

func (m *keyed) key() string { return m.from + "," + m.to }
func (m *keyed) id() string {
	return strings.Trim(m.from, `"`) + "-" + strings.Trim(m.to, `"`)
}

// data is the data of m; that of each mutation has the same members, so that
// an UPDATE leaves its own.
func (m *keyed) data() string {
	return fmt.Sprintf(`{"from":%s,"to":%s,"x":"%0*d"}`, m.from, m.to, m.bytes, 0)
}

func (m *keyed) json() string {
	id := ""
	if m.named {
		id = fmt.Sprintf(`"resourceId":%q,`, m.id())
	}
	return fmt.Sprintf(`{"type":%q,"resource":"LINK",%s"data":%s}`, m.kind, id, m.data())
}

// push tells whether mutations are to be taken, and takes them.
func (m *keyModel) push(mutations []keyed) bool {
	owner, live := maps.Clone(m.owner), maps.Clone(m.live)
	for _, k := range mutations {
		if of, taken := owner[k.id()]; taken && of != k.key() {
			return false
		}
		owner[k.id()] = k.key()
		if live[k.key()] = len(k.data()); k.kind == "DELETE" {
			delete(live, k.key())
		}
	}
	sum := func(live map[string]int) (c Count) {
		for _, bytes := range live {
			c.Resources, c.Bytes = c.Resources+1, c.Bytes+int64(bytes)
		}
		return c
	}
	before, after := sum(m.live), sum(live)
	over := func(before, after, most int64) bool { return most > 0 && after > max(most, before) }
	if over(before.Bytes, after.Bytes, m.quota.Bytes) || over(before.Resources, after.Resources, m.quota.Resources) ||
		over(before.Resources, after.Resources, m.most) {
		return false
	}
	m.owner, m.live = owner, live
	return true
}

// TestKindsModel: random pushes do what the model says, whatever bounds come and
// go; and every pull can be pushed again.
func TestKindsModel(t *testing.T) {
	const seeds, pushes = 60, 60
	taken := 0
	for seed := range uint64(seeds) {
		random := rand.New(rand.NewPCG(seed, 21))
		pick := func(list ...string) string { return list[random.IntN(len(list))] }
		f := newFixture(t)
		m := &keyModel{owner: map[string]string{}, live: map[string]int{}}
		kinds := Kinds{"LINK": {Key: []string{"from", "to"}}}
		for range pushes {
			if random.IntN(8) == 0 {
				m.quota = Count{Bytes: random.Int64N(3) * 150, Resources: random.Int64N(3) * 4}
				m.most = random.Int64N(3) * 3
				kinds = Kinds{"LINK": {Key: []string{"from", "to"}, Resources: m.most}}
				f.limit(m.quota)
			}
			var mutations []keyed
			var texts []string
			for range 1 + random.IntN(4) {
				k := keyed{pick("CREATE", "UPDATE", "DELETE"), pick(`"a"`, `"a-1"`, `1`, `"1"`), pick(`1`, `"1"`, `"1-a"`, `"a"`), 1 + random.IntN(30), random.IntN(2) == 0}
				mutations, texts = append(mutations, k), append(texts, k.json())
			}
			_, err := f.send(kinds, texts...)
			if want := m.push(mutations); want != (err == nil) {
				t.Fatalf("seed %d: %v\ngot %v, want it taken: %t", seed, texts, err, want)
			}
			if err == nil {
				taken++
			}
		}
		all := Query{Since: 0, Access: access(kinds)}
		pulled := f.pulled(all)
		if strings.Contains(strings.Join(pulled, ""), "resourceId") {
			t.Errorf("seed %d: a pull gives resourceIds: %v", seed, pulled)
		}
		live := []string{}
		for _, change := range f.pulled(Query{Since: Beginning, Access: access(kinds)}) {
			k := strings.Split(change, `"from":`)[1]
			k = strings.Replace(strings.Split(k, `,"x"`)[0], `"to":`, "", 1)
			live = append(live, k)
		}
		slices.Sort(live)
		f.same(slices.Sorted(maps.Keys(m.live)), append([]string(nil), live...))
		f.limit(Count{})
		kinds["LINK"].Resources = 0
		f.sent(kinds, pulled...)
		f.same(pulled, f.pulled(all))
	}
	if taken < seeds*pushes/5 || taken > seeds*pushes*4/5 {
		t.Errorf("%d of %d pushes were taken: the mix is off", taken, seeds*pushes)
	}
}
