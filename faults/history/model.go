package history

import (
	"cmp"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
)

// beginning is the head of an empty log and the cursor of a device that holds
// nothing; maxTimestamp is the last timestamp there can be.
const (
	beginning    int64 = -1
	maxTimestamp int64 = 1<<53 - 1
)

// A mutation as it is on the wire; data is JSON text, "" for none, and at is 0
// in a push.
type mutation struct {
	kind, resource, id string
	data               string
	at                 int64
}

type ref struct{ resource, id string }

func (m *mutation) ref() ref { return ref{m.resource, m.id} }

// content is what a push wants applied. Retries share their content, and no
// two contents are alike: each has a marker of its own (see marker).
type content struct {
	user      int
	number    int
	mutations []mutation
}

// batch is a content that was applied.
type batch struct {
	content     *content
	base        int64
	client, key string
	accepted    []mutation // with identifiers and timestamps
	after       []mutation // the same, with the data of their resources after each
}

func (b *batch) head() int64 { return b.accepted[len(b.accepted)-1].at }

// state is a log: what was applied last, and the state before it. States are
// never changed, and two that hold the same batches are the same.
type state struct {
	head   int64
	hash   uint64 // rolling, over all batches
	batch  *batch
	parent *state
	rows   map[ref]row
}

// row is what a log leaves of one resource.
type row struct {
	live         bool
	data         string
	born, newest int64
}

// states makes every state once, so that each is worked out only once.
type states struct {
	mu   sync.Mutex
	made map[uint64]*state
}

var empty = &state{head: beginning, rows: map[ref]row{}}

// apply returns the state in which the content of p was applied to s at first,
// with the identifiers that the server assigned.
func (t *states) apply(s *state, p *pushInput, first int64, assigned []string) *state {
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %d %d %d %q %q %q", s.hash, p.content.number, p.base, first, p.client, p.key, assigned)
	sum := h.Sum64()
	t.mu.Lock()
	defer t.mu.Unlock()
	if next := t.made[sum]; next != nil {
		return next
	}
	b := &batch{content: p.content, base: p.base, client: p.client, key: p.key}
	rows := make(map[ref]row, len(s.rows)+len(p.content.mutations))
	for k, v := range s.rows {
		rows[k] = v
	}
	for i, m := range p.content.mutations {
		m.at = first + int64(i)
		if m.id == "" && i < len(assigned) {
			m.id = assigned[i]
		}
		b.accepted = append(b.accepted, m)
		r := rows[m.ref()]
		r.follow(&m)
		rows[m.ref()] = r
		m.data = r.data
		b.after = append(b.after, m)
	}
	next := &state{head: b.head(), hash: sum, batch: b, parent: s, rows: rows}
	t.made[sum] = next
	return next
}

// follow is what a mutation does to its resource.
func (r *row) follow(m *mutation) {
	if !r.live {
		r.born, r.data = m.at, ""
	}
	r.newest = m.at
	r.live = m.kind != "DELETE"
	switch m.kind {
	case "CREATE":
		r.data = m.data
	case "UPDATE":
		r.data = mergePatch(r.data, m.data)
	case "DELETE":
		r.data = ""
	}
}

// member is a member of a JSON object: its name, and the text of its value.
type member struct{ name, value string }

// mergePatch is RFC 7396 for objects, which keeps the order of members; target
// may be "" or no object.
func mergePatch(target, patch string) string {
	members := parse(target)
	for _, change := range parse(patch) {
		i := slices.IndexFunc(members, func(m member) bool { return m.name == change.name })
		if change.value == "null" {
			if i >= 0 {
				members = slices.Delete(members, i, i+1)
			}
			continue
		}
		if i < 0 {
			members = append(members, member{name: change.name})
			i = len(members) - 1
		}
		if change.value[0] == '{' {
			change.value = mergePatch(members[i].value, change.value)
		}
		members[i].value = change.value
	}
	texts := make([]string, len(members))
	for i, m := range members {
		texts[i] = fmt.Sprintf("%q:%s", m.name, m.value)
	}
	return "{" + strings.Join(texts, ",") + "}"
}

// parse returns the members of an object; none of what is no object.
func parse(object string) (members []member) {
	if !strings.HasPrefix(object, "{") {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(object))
	_, err := d.Token()
	for err == nil && d.More() {
		var name json.Token
		var value json.RawMessage
		if name, err = d.Token(); err == nil {
			if err = d.Decode(&value); err == nil {
				members = append(members, member{name.(string), string(value)})
			}
		}
	}
	if err != nil {
		panic(fmt.Sprintf("%v in %s", err, object)) // it was parsed before, or is our own
	}
	return members
}

// batches calls fn with every state of the log from the newest batch back,
// until fn returns false.
func (s *state) batches(fn func(*state) bool) {
	for ; s.batch != nil; s = s.parent {
		if !fn(s) {
			return
		}
	}
}

// replay looks for the batch that p already is; reused tells that its key was
// used for something else.
func (s *state) replay(p *pushInput) (found *state, reused bool) {
	s.batches(func(at *state) bool {
		b := at.batch
		switch {
		case b.key != p.key:
		case p.key != "":
			if b.content == p.content {
				found = at
			} else {
				reused = true
			}
		case b.base == p.base && b.client == p.client && b.content == p.content:
			found = at
		}
		return found == nil && !reused
	})
	return found, reused
}

// changes is what a pull of since gives, of all resources.
func (s *state) changes(since int64) []mutation {
	changes := []mutation{}
	for at, r := range s.rows {
		m := mutation{"UPDATE", at.resource, at.id, r.data, r.newest}
		switch {
		case r.newest <= since, since == beginning && !r.live:
			continue
		case !r.live:
			m.kind = "DELETE"
		case r.born > since:
			m.kind = "CREATE"
		}
		changes = append(changes, m)
	}
	slices.SortFunc(changes, func(a, b mutation) int { return cmp.Compare(a.at, b.at) })
	return changes
}

// history is the raw log later than since.
func (s *state) history(since int64) []mutation {
	var reversed []mutation
	s.batches(func(at *state) bool {
		for _, m := range slices.Backward(at.batch.accepted) {
			if m.at > since {
				reversed = append(reversed, m)
			}
		}
		return at.parent.head > since
	})
	slices.Reverse(reversed)
	return reversed
}

// conflicts are the mutations of p whose resources have changed since its base.
func (s *state) conflicts(p *pushInput) []conflict {
	found := []conflict{}
	if p.base >= s.head {
		return found
	}
	for i, m := range p.content.mutations {
		r, known := s.rows[m.ref()]
		if !known || r.newest <= p.base {
			continue
		}
		c := conflict{i, m, mutation{"UPDATE", m.resource, m.id, r.data, r.newest}}
		if !r.live {
			c.server.kind = "DELETE"
		} else if r.born > p.base {
			c.server.kind = "CREATE"
		}
		found = append(found, c)
	}
	return found
}

// conflict is one mutation of a refused push, with both branches.
type conflict struct {
	index          int
	client, server mutation
}

// reason is why the cursor of p is refused, "" if it is the head.
func (s *state) reason(base int64) string {
	switch {
	case base == s.head:
		return ""
	case s.head == beginning:
		return "first_sync"
	case base > s.head:
		return "cursor_ahead"
	}
	return "stale_cursor"
}

// admits tells whether p is applied, if it is no replay.
func (s *state) admits(p *pushInput) bool {
	reason := s.reason(p.base)
	return reason == "" || p.merge && reason == "stale_cursor" && len(s.conflicts(p)) == 0
}
