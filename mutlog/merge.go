package mutlog

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// MergePatch applies patch, a JSON object, to target, a JSON object or nil, as
// a JSON Merge Patch (RFC 7396) and returns the new object. Members keep their
// order and the text of their names and values; members that patch adds come
// last. Both must be valid JSON without duplicate names. The result shares no
// bytes with target or patch.
//
// It is written here because the libraries for it decode into maps, which
// loses the order of members and the digits of numbers.
func MergePatch(target, patch []byte) []byte {
	members := parseObject(target)
	index := byName(members)
	for _, change := range parseObject(patch) {
		i, found := index[unquote(change.name)]
		if change.isNull() {
			if found {
				members[i].value = nil // leaves it out
			}
			continue
		}
		if change.isObject() {
			var old []byte
			if found && members[i].isObject() {
				old = members[i].value
			}
			change.value = MergePatch(old, change.value)
		}
		if found {
			members[i].value = change.value
		} else {
			members = append(members, change)
		}
	}
	return appendObject(make([]byte, 0, len(target)+len(patch)), members)
}

// member is a member of a JSON object; both parts are JSON text.
type member struct{ name, value []byte }

func (m member) isNull() bool   { return m.value[0] == 'n' }
func (m member) isObject() bool { return m.value[0] == '{' }

// byName returns the places of members by what their names mean, however they
// are escaped. A map, because objects can have thousands of members.
func byName(members []member) map[string]int {
	index := make(map[string]int, len(members))
	for i, m := range members {
		index[unquote(m.name)] = i
	}
	return index
}

// parseObject returns the members of a valid JSON object, which they alias; of
// nil, none.
func parseObject(object []byte) []member {
	if object == nil {
		return nil
	}
	var members []member
	d := jsontext.NewDecoder(bytes.NewBuffer(object), jsontext.AllowDuplicateNames(true))
	value := func() []byte {
		v, _ := d.ReadValue() // object is valid
		end := int(d.InputOffset())
		return object[end-len(v) : end : end]
	}
	d.ReadToken()
	for k := d.PeekKind(); k == '"'; k = d.PeekKind() {
		name := value()
		members = append(members, member{name, value()})
	}
	return members
}

// appendObject appends the object of those members that have a value.
func appendObject(dst []byte, members []member) []byte {
	dst = append(dst, '{')
	first := true
	for _, m := range members {
		if m.value == nil {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(dst, m.name...)
		dst = append(dst, ':')
		dst = append(dst, m.value...)
	}
	return append(dst, '}')
}

// equalJSON reports whether two JSON values mean the same: the order of members,
// white space and the escapes of strings do not matter, the text of numbers does.
func equalJSON(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	if a == nil || b == nil {
		return false
	}
	return bytes.Equal(canonical(a), canonical(b))
}

func canonical(raw []byte) []byte {
	v := jsontext.Value(bytes.Clone(raw))
	v.Format(jsontext.ReorderRawObjects(true), // raw is valid, so that this cannot fail
		jsontext.CanonicalizeRawInts(false), jsontext.CanonicalizeRawFloats(false))
	return v
}

func validJSON(raw []byte) bool { return jsontext.Value(raw).IsValid() }
