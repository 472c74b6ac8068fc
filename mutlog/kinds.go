package mutlog

import (
	"fmt"
	"slices"
)

// Kinds are the kinds of resources that a configuration allows, by name, and
// what holds for each (rules 20 to 23). Nil allows every name and asks for
// nothing else.
type Kinds map[string]*Kind

// Kind is what a configuration says of one kind of resource. Nil says nothing.
type Kind struct {
	// Scope is the scope that a device needs beside that for syncing at all, or
	// "" for none.
	Scope string

	// Key are the members of the data that together identify a resource, in the
	// order in which they make its identifier; empty if they do not.
	Key []string

	// DataBytes bounds the data of a resource, in bytes, if that is less than
	// Limits allow; 0 for no bound of its own.
	DataBytes int

	// Resources bounds how many of them a user may have alive; 0 for no bound.
	Resources int64

	// Schema judges the data of a resource; nil for none.
	Schema Schema
}

// ScopeForm is what ValidScope asks for, in words.
const ScopeForm = `a word of at most 255 printable ASCII characters without " \ and ,`

// ValidScope tells whether s can be the name of a scope: as RFC 6749 has it, but
// without commas, which stand between scopes where people list them.
func ValidScope(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' || c == ',' {
			return false
		}
	}
	return s != "" && len(s) <= 255
}

// Schema judges the data of a resource after a mutation. It may be used by
// several goroutines at once, and what it finds depends on data alone.
type Schema interface {
	// Validate returns what is wrong with data, a JSON object.
	Validate(data []byte) []Violation
}

// Violation is one rule of a schema that data breaks.
type Violation struct {
	Path   string // where in the data, as a JSON Pointer; "" is the whole
	Rule   string // which rule of the schema, as a JSON Pointer into it
	Reason string // in words
}

// Access is what one request may do with which kinds of resources: it keeps the
// configuration with which it began. The zero Access allows everything.
type Access struct {
	Kinds  Kinds
	hidden map[string]bool // kinds that pulls leave out, and pushes must not have
}

// Access returns what somebody may do who has the scopes that has tells of: the
// kinds with another scope are hidden from them (rule 23).
func (k Kinds) Access(has func(scope string) bool) Access {
	a := Access{Kinds: k}
	for name, kind := range k {
		if kind.Scope != "" && !has(kind.Scope) {
			if a.hidden == nil {
				a.hidden = map[string]bool{}
			}
			a.hidden[name] = true
		}
	}
	return a
}

// Hides returns the refusal to whoever asks for a kind by name that is out of
// their scopes, a *ScopeError, or nil.
func (a Access) Hides(name string) error {
	if !a.hidden[name] {
		return nil
	}
	return &ScopeError{Index: NoIndex, Resource: name, Scope: a.Kinds[name].Scope}
}

// Allow reports whether there may be resources of the kind of this name.
func (k Kinds) Allow(name string) bool { return ValidResource(name) && (k == nil || k[name] != nil) }

// Judge reports whether any kind has a schema.
func (k Kinds) Judge() bool {
	for _, kind := range k {
		if kind.Schema != nil {
			return true
		}
	}
	return false
}

// MostJudged returns how many bytes the largest data may have that a schema is
// compared with when these mutations are pushed.
func (k Kinds) MostJudged(mutations []Mutation, limits Limits) (most int) {
	for i := range mutations {
		m := &mutations[i]
		kind := k[m.Resource]
		switch {
		case kind == nil || kind.Schema == nil:
		case m.Type == Update: // what it changes may be of any size
			most = max(most, kind.dataBytes(limits))
		default:
			most = max(most, len(m.Data))
		}
	}
	return most
}

// dataBytes returns the bound of data of this kind.
func (k *Kind) dataBytes(limits Limits) int {
	if k == nil || k.DataBytes == 0 {
		return limits.DataBytes
	}
	return min(k.DataBytes, limits.DataBytes)
}

// validate returns what is wrong with the data of a resource of this kind.
func (k *Kind) validate(data []byte) []Violation {
	if k == nil || k.Schema == nil || data == nil {
		return nil
	}
	return k.Schema.Validate(data)
}

// created judges the data of every CREATE, for which the log need not be known.
// It returns nil if no kind has a schema.
func (k Kinds) created(mutations []Mutation) [][]Violation {
	var found [][]Violation
	for i := range mutations {
		kind := k[mutations[i].Resource]
		if kind == nil || kind.Schema == nil || mutations[i].Type != Create {
			continue
		}
		if found == nil {
			found = make([][]Violation, len(mutations))
		}
		found[i] = kind.validate(mutations[i].Data)
	}
	return found
}

// violations adds what a schema has found in the data of a mutation.
func (f *faults) violations(index int, found []Violation) {
	for _, v := range found {
		member := "data" + v.Path
		f.at(index, member, "Invalid "+clip(member), fmt.Sprintf("%s (rule %s)", v.Reason, v.Rule))
	}
}

// sort puts the faults in the order of the mutations.
func (f *faults) sort() {
	slices.SortStableFunc(f.list, func(a, b Fault) int { return a.Index - b.Index })
}
