package mutlogtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"tidemark/mutlog"
)

// Model is what a history leaves, by the letter of rules 6, 13 and 14 and with
// nothing of the code that it judges: data is decoded into maps.
type Model struct{ rows map[mutlog.Ref]row }

type row struct {
	state        any // nil if the resource is deleted
	born, newest mutlog.Timestamp
}

// Change is one change that a pull gives, its data decoded.
type Change struct {
	Type      mutlog.Type
	Ref       mutlog.Ref
	Data      any
	Timestamp mutlog.Timestamp
}

// Replay returns what history, mutations as they were accepted, leaves.
func Replay(history []mutlog.Mutation) *Model {
	m := &Model{rows: map[mutlog.Ref]row{}}
	for _, mutation := range history {
		m.apply(mutation)
	}
	return m
}

// apply is rule 6.
func (m *Model) apply(mutation mutlog.Mutation) {
	r := m.rows[mutation.Ref()]
	if r.state == nil {
		r.born = mutation.Timestamp
	}
	r.newest = mutation.Timestamp
	switch mutation.Type {
	case mutlog.Create:
		r.state = Decode(mutation.Data)
	case mutlog.Update:
		r.state = mergePatch(r.state, Decode(mutation.Data))
	case mutlog.Delete:
		r.state = nil
	}
	m.rows[mutation.Ref()] = r
}

// mergePatch is the pseudo-code of RFC 7396, section 2.
func mergePatch(target, patch any) any {
	members, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	result := map[string]any{}
	if old, ok := target.(map[string]any); ok {
		result = maps.Clone(old)
	}
	for name, value := range members {
		if value == nil {
			delete(result, name)
		} else {
			result[name] = mergePatch(result[name], value)
		}
	}
	return result
}

// Pull returns what a pull of since must give (rules 13 and 14), and what a
// pull must that continues behind after.
func (m *Model) Pull(since, after mutlog.Timestamp) []Change {
	changes := []Change{}
	for ref, r := range m.rows {
		c := Change{mutlog.Update, ref, r.state, r.newest}
		switch {
		case r.newest <= max(since, after), since == mutlog.Beginning && r.state == nil:
			continue
		case r.state == nil:
			c.Type = mutlog.Delete
		case r.born > since:
			c.Type = mutlog.Create
		}
		changes = append(changes, c)
	}
	slices.SortFunc(changes, func(a, b Change) int { return cmp.Compare(a.Timestamp, b.Timestamp) })
	return changes
}

// Live returns the data of every live resource.
func (m *Model) Live() map[mutlog.Ref]any {
	live := map[mutlog.Ref]any{}
	for ref, r := range m.rows {
		if r.state != nil {
			live[ref] = r.state
		}
	}
	return live
}

// Decoded returns mutations as changes.
func Decoded(mutations []mutlog.Mutation) []Change {
	changes := make([]Change, len(mutations))
	for i, m := range mutations {
		changes[i] = Change{m.Type, m.Ref(), Decode(m.Data), m.Timestamp}
	}
	return changes
}

// Decode returns the value of data, with the text of its numbers; nil of nil.
func Decode(data []byte) (value any) {
	if data == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		panic(fmt.Sprintf("%v in %q", err, data))
	}
	return value
}
