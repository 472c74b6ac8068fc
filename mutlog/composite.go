package mutlog

import (
	"bytes"
	"slices"
	"strings"
)

// This file is rule 21. The identifier of a composite resource is made of the
// values of its key fields, joined by "-". That is not unique: "a-b" and "c"
// make the same as "a" and "b-c". To escape them would change the identifiers
// of the usual keys, which are UUIDs; so the second of the two is refused.

// isComposite tells whether resources of this kind are identified by their data.
func (k *Kind) isComposite() bool { return k != nil && len(k.Key) > 0 }

// keyOf returns the JSON text of each key field in data, nil where it is
// missing, and the identifier that they make, or "" if one is missing or cannot
// be a part of one.
func (k *Kind) keyOf(data []byte) (values [][]byte, id string) {
	values = make([][]byte, len(k.Key))
	if data == nil {
		return values, ""
	}
	r := newReader(data)
	defer r.free()
	r.object(func(name []byte) {
		value := r.value()
		if i := slices.Index(k.Key, unquote(name)); i >= 0 {
			values[i] = value
		}
	})
	parts := make([]string, len(values))
	for i, value := range values {
		if !validKeyValue(value) {
			return values, ""
		}
		parts[i], _ = text(value)
	}
	return values, strings.Join(parts, "-")
}

// validKeyValue tells whether the JSON text of a value can be a part of an
// identifier: a string that is not empty, or an integer without fraction and
// exponent, of which there is only one way to write each.
func validKeyValue(raw []byte) bool {
	if len(raw) == 0 {
		return false
	}
	if raw[0] == '"' {
		return len(raw) > len(`""`)
	}
	digits := bytes.TrimPrefix(raw, []byte("-"))
	if len(digits) == 0 || digits[0] == '0' && len(raw) > 1 {
		return false
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// keyData returns an object of the key fields in data, if they make id; else nil.
func (k *Kind) keyData(data []byte, id string) []byte {
	if !k.isComposite() {
		return nil
	}
	values, made := k.keyOf(data)
	if made != id {
		return nil
	}
	out := []byte{'{'}
	for i, value := range values {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(append(AppendQuoted(out, k.Key[i]), ':'), value...)
	}
	return append(out, '}')
}

// leaving returns the data that e leaves for devices: the state of its resource
// or, of a composite one that is deleted, its key fields.
func (k *Kind) leaving(e *Entry) []byte {
	if e.Live() {
		return e.State
	}
	return k.keyData(e.Data, e.ResourceID)
}

// hideID takes the identifier from m where its data says the same.
func (k *Kind) hideID(m *Mutation) {
	if k.isComposite() && m.Data != nil {
		if _, id := k.keyOf(m.Data); id == m.ResourceID {
			m.ResourceID = ""
		}
	}
}

// identify gives m, the index-th mutation of a push and of a composite kind, the
// identifier that its data makes. Only a CREATE must have all key fields where
// m names its resource by resourceId, too.
func (k *Kind) identify(m *Mutation, index int, faults *faults) {
	values, id := k.keyOf(m.Data)
	k.checkValues(values, m.Type == Create || m.ResourceID == "", index, faults)
	if id == "" {
		return
	}
	if !ValidResourceID(id) || m.ResourceID != "" && m.ResourceID != id {
		faults.at(index, "resourceId", "Invalid resourceId", "")
	}
	m.ResourceID = id
}

// checkValues finds what is wrong with the values of key fields, of which none
// may be missing if all are required.
func (k *Kind) checkValues(values [][]byte, required bool, index int, faults *faults) {
	for i, value := range values {
		member := "data/" + pointerEscapes.Replace(k.Key[i])
		switch {
		case value == nil && required:
			faults.at(index, member, "Missing "+member, "")
		case value != nil && !validKeyValue(value):
			faults.at(index, member, "Invalid "+member, "a key is a string that is not empty, or an integer")
		}
	}
}

// checkKey finds what is wrong with the key of e, whose resource had the newest
// mutation before, or nil: what e leaves must make the identifier by which it
// was named, of the same values that made it before.
func (k *Kind) checkKey(e, before *Entry, index int, faults *faults) {
	data, known := e.State, k.valuesOf(before)
	if e.Type == Delete {
		if data = e.Data; known == nil {
			return // by resourceId: what was there before the kind was composite
		}
	}
	values, id := k.keyOf(data)
	k.checkValues(values, true, index, faults)
	switch {
	case id == "":
	case id != e.ResourceID:
		faults.at(index, "resourceId", "Invalid resourceId", "")
	case known != nil && !slices.EqualFunc(values, known, equalJSON):
		faults.at(index, "resourceId", "Invalid resourceId", "other values of "+strings.Join(k.Key, ", ")+" make the same")
	}
}

// valuesOf returns the values of which the identifier of e was made, or nil.
func (k *Kind) valuesOf(e *Entry) [][]byte {
	if e == nil {
		return nil
	}
	data := e.State
	if data == nil {
		data = e.Data
	}
	if values, id := k.keyOf(data); id == e.ResourceID {
		return values
	}
	return nil
}

// pointerEscapes makes a name a part of a JSON Pointer (RFC 6901).
var pointerEscapes = strings.NewReplacer("~", "~0", "/", "~1")
