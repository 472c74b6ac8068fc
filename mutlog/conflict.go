package mutlog

import "slices"

// Conflict is one mutation of a refused push whose resource has changed since
// the cursor of the push, with both branches, so that the device can decide at
// once (rule 12).
type Conflict struct {
	Index  int      // of the mutation in the push, from 0
	Client Mutation // what was pushed
	Server Mutation // what a pull of the cursor gives for the resource
	Fields []string // top-level members of the data that differ, sorted
}

// conflicts returns the mutations of p whose resources have changed since its
// base.
func conflicts(tx Reader, head Timestamp, p *Push) ([]Conflict, error) {
	found := []Conflict{}
	if p.Base >= head {
		return found, nil
	}
	newest, err := tx.Newest(refs(p.Mutations), head)
	if err != nil {
		return nil, err
	}
	for i, m := range p.Mutations {
		if e := newest[i]; e != nil && e.Timestamp > p.Base {
			kinds := p.Access.Kinds
			server := change(kinds, e, p.Base).clone()
			found = append(found, Conflict{i, m, server, differences(kinds[m.Resource], &m, e)})
		}
	}
	return found, nil
}

// differences returns the names of the top-level members that the client's
// mutation would change on top of e, the server's newest of the same resource. The
// key fields of a composite one stay in the data even of a tombstone, so that
// they are none of them.
func differences(kind *Kind, client *Mutation, e *Entry) []string {
	after := client.Data
	switch client.Type {
	case Update:
		after = MergePatch(e.State, client.Data)
	case Delete:
		after = kind.keyData(client.Data, client.ResourceID)
	}
	mine, theirs := membersOf(after), membersOf(kind.leaving(e))
	names := []string{}
	for name, value := range mine {
		if other, found := theirs[name]; !found || !equalJSON(value, other) {
			names = append(names, name)
		}
	}
	for name := range theirs {
		if _, found := mine[name]; !found {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// membersOf returns the values of the members of an object by their names.
func membersOf(object []byte) map[string][]byte {
	values := map[string][]byte{}
	if object == nil {
		return values
	}
	r := newReader(object)
	defer r.free()
	r.object(func(name []byte) { values[unquote(name)] = r.value() })
	return values
}

func refs(mutations []Mutation) []Ref {
	refs := make([]Ref, len(mutations))
	for i := range mutations {
		refs[i] = mutations[i].Ref()
	}
	return refs
}
