package mutlog_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	. "tidemark/mutlog"
)

// bounded is a fixture whose users have a quota.
func bounded(t *testing.T, quota Count) *fixture {
	f := newFixture(t)
	f.limit(quota)
	return f
}

// limit goes on with another quota, as after a restart.
func (f *fixture) limit(quota Count) {
	limits := DefaultLimits
	limits.Quota = quota
	log := New(f.store, limits)
	log.Now, log.NewID = f.Now, f.NewID
	f.Log = log
}

// data is an object of so many bytes.
func data(bytes int) string { return fmt.Sprintf(`{"a":"%0*d"}`, bytes-8, 0) }

func note(kind, id string, bytes int) string { return mutation(kind, "NOTE", id, bytes) }

func mutation(kind, resource, id string, bytes int) string {
	m := fmt.Sprintf(`{"type":%q,"resource":%q,"resourceId":%q`, kind, resource, id)
	if bytes > 0 {
		m += `,"data":` + data(bytes)
	}
	return m + "}"
}

// TestQuota: what makes more live than the quota and than before is refused,
// whatever frees something is not (rule 24).
func TestQuota(t *testing.T) {
	const bytes, resources = "quotaBytes: Quota exceeded at mutation[%d]: at most 100 bytes", "quotaResources: Quota exceeded at mutation[%d]: at most 3 resources"
	tests := []struct {
		name  string
		quota Count
		push  []string // on a log with the notes a of 50 bytes and b of 30
		want  []string
	}{
		{"up to the bytes", Count{Bytes: 100}, []string{note("CREATE", "c", 20)}, nil},
		{"a byte more", Count{Bytes: 100}, []string{note("CREATE", "c", 21)}, []string{fmt.Sprintf(bytes, 0)}},
		{"two of three fit", Count{Bytes: 100}, []string{note("CREATE", "c", 10), note("CREATE", "d", 11), note("CREATE", "e", 10)}, []string{fmt.Sprintf(bytes, 1)}},
		{"an UPDATE that grows", Count{Bytes: 100}, []string{note("UPDATE", "a", 71)}, []string{fmt.Sprintf(bytes, 0)}},
		{"what a DELETE frees counts first", Count{Bytes: 100}, []string{note("CREATE", "c", 50), note("DELETE", "b", 0)}, nil},
		{"and no more than it frees", Count{Bytes: 100}, []string{note("CREATE", "c", 51), note("DELETE", "b", 0)}, []string{fmt.Sprintf(bytes, 0)}},
		{"a DELETE over the quota", Count{Bytes: 10}, []string{note("DELETE", "b", 0)}, nil},
		{"a smaller one over the quota", Count{Bytes: 10}, []string{note("UPDATE", "a", 20), note("CREATE", "b", 10)}, nil},
		{"one as large over the quota", Count{Bytes: 10, Resources: 1}, []string{note("CREATE", "a", 50)}, nil},
		{"moved over the quota", Count{Bytes: 10, Resources: 1}, []string{note("CREATE", "c", 50), note("DELETE", "a", 0)}, nil},
		{"larger over the quota", Count{Bytes: 10}, []string{note("CREATE", "a", 51)}, []string{"quotaBytes: Quota exceeded at mutation[0]: at most 10 bytes"}},
		{"a DELETE of nothing", Count{Bytes: 10, Resources: 1}, []string{note("DELETE", "x", 0)}, nil},
		{"up to the resources", Count{Resources: 3}, []string{note("CREATE", "c", 20)}, nil},
		{"a resource more", Count{Resources: 3}, []string{note("CREATE", "c", 20), note("UPDATE", "c", 20), note("UPDATE", "d", 20)}, []string{fmt.Sprintf(resources, 2)}},
		{"there and gone again", Count{Resources: 2}, []string{note("CREATE", "c", 20), note("DELETE", "c", 0)}, nil},
		{"there twice", Count{Resources: 3}, []string{note("CREATE", "c", 20), note("CREATE", "c", 20)}, nil},
		{"both", Count{Resources: 2, Bytes: 80}, []string{note("CREATE", "c", 20), note("DELETE", "x", 0)},
			[]string{"quotaBytes: Quota exceeded at mutation[0]: at most 80 bytes", "quotaResources: Quota exceeded at mutation[0]: at most 2 resources"}},
	}
	for _, test := range tests {
		for _, counted := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, counted %t", test.name, counted), func(t *testing.T) {
				f := newFixture(t)
				if counted {
					f.limit(Count{Bytes: 1000})
				}
				f.sent(nil, note("CREATE", "a", 50), note("CREATE", "b", 30), note("CREATE", "gone", 40), note("DELETE", "gone", 0))
				f.limit(test.quota)
				before := f.history()
				_, err := f.send(nil, test.push...)
				if test.want == nil {
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				f.same(test.want, messages(t, err))
				f.unchanged(before)
			})
		}
	}
}

// TestQuotaOfKind: a kind may have a bound of its own, which may come and go
// (rule 24).
func TestQuotaOfKind(t *testing.T) {
	f := newFixture(t)
	push := func(kinds Kinds, want string, mutations ...string) {
		t.Helper()
		_, err := f.send(kinds, mutations...)
		switch {
		case want == "" && err != nil:
			t.Fatal(err)
		case want != "" && err == nil:
			t.Fatalf("%v: accepted", mutations)
		case want != "":
			f.same([]string{want}, messages(t, err))
		}
	}
	none := Kinds{"A": {}, "B": {}}
	onA := Kinds{"A": {Resources: 2}, "B": {}}
	onB := Kinds{"A": {}, "B": {Resources: 1}}
	push(none, "", mutation("CREATE", "A", "1", 20), mutation("CREATE", "B", "1", 20))
	push(onA, "", mutation("CREATE", "A", "2", 20))
	push(onA, "maxResources: Quota exceeded at mutation[1]: at most 2 of A", mutation("CREATE", "B", "2", 20), mutation("CREATE", "A", "3", 20))
	push(onB, "maxResources: Quota exceeded at mutation[0]: at most 1 of B", mutation("CREATE", "B", "2", 20))
	push(onB, "", mutation("CREATE", "A", "3", 20))
	push(onA, "", mutation("UPDATE", "A", "3", 30), mutation("DELETE", "A", "1", 0))
	push(onA, "maxResources: Quota exceeded at mutation[0]: at most 2 of A", mutation("CREATE", "A", "4", 20))
	push(none, "", mutation("CREATE", "A", "4", 20))
	push(onA, "", mutation("DELETE", "A", "4", 0), mutation("DELETE", "A", "3", 0))
}

// TestQuotaReplay: a push that was applied is answered again under a quota that
// it would break, also when it was merged (rule 24).
func TestQuotaReplay(t *testing.T) {
	f := newFixture(t)
	mutations, err := decode(nil, note("CREATE", "a", 50))
	if err != nil {
		t.Fatal(err)
	}
	f.must(Push{Base: Beginning, Mutations: mutations})
	f.must(Push{Base: f.head(), Mutations: mutations, Key: "k"})
	f.limit(Count{Bytes: 10, Resources: 1})
	for _, p := range []Push{{Base: Beginning, Mutations: mutations}, {Base: 5, Mutations: mutations, Key: "k"}} {
		if again := f.must(p); !again.Replayed {
			t.Errorf("%+v: not recognised", p)
		}
	}
}

// TestQuotaCounts: what is live is carried from batch to batch, whichever way
// there is a bound, and Check compares it with the log (rule 24).
func TestQuotaCounts(t *testing.T) {
	f := bounded(t, Count{Bytes: 1 << 20})
	kinds := Kinds{"NOTE": {}, "A": {Resources: 9}, "B": {Resources: 9}}
	f.sent(kinds, note("CREATE", "a", 50), mutation("CREATE", "A", "1", 20), mutation("CREATE", "A", "2", 30))
	f.sent(kinds, mutation("DELETE", "A", "1", 0), mutation("UPDATE", "A", "2", 25), note("UPDATE", "b", 10))
	err := f.store.View(t.Context(), alice, func(tx Reader) error {
		batches, err := tx.Batches(Beginning, 10)
		if err != nil {
			return err
		}
		want := map[string]Count{"": {Resources: 2, Bytes: 60}, "A": {Resources: 1, Bytes: 25}, "B": {}}
		if diff := cmp.Diff(want, batches[len(batches)-1].Live); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
