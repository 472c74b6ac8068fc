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
			server := change(e, p.Base)
			found = append(found, Conflict{i, m, server, differences(m, server)})
		}
	}
	return found, nil
}

// differences returns the names of the top-level members in which the client's
// intent differs from the server's state. A patch speaks only of the members
// that it names, and its null of one that is not there.
func differences(client, server Mutation) []string {
	names := []string{}
	mine, theirs := parseObject(client.Data), parseObject(server.Data)
	if client.Type == Delete {
		mine = nil
	}
	for _, m := range mine {
		i := slices.IndexFunc(theirs, m.sameName)
		removed := client.Type == Update && m.isNull()
		if i < 0 && !removed || i >= 0 && !equalJSON(m.value, theirs[i].value) {
			names = append(names, unquote(m.name))
		}
	}
	if client.Type != Update {
		for _, t := range theirs {
			if !slices.ContainsFunc(mine, t.sameName) {
				names = append(names, unquote(t.name))
			}
		}
	}
	slices.Sort(names)
	return names
}

func refs(mutations []Mutation) []Ref {
	refs := make([]Ref, len(mutations))
	for i := range mutations {
		refs[i] = mutations[i].Ref()
	}
	return refs
}
