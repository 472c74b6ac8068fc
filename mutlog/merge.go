package mutlog

import (
	"bytes"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// MergePatch applies patch, a JSON object, to target, a JSON object or nil, as
// a JSON Merge Patch (RFC 7396) and returns the new object. Members keep their
// order and the text of their names and values; members that patch adds come
// last. Both must be valid JSON without duplicate names. The result shares no
// bytes with target or patch, and each byte of them is read once, however deep
// they nest.
//
// It is written here because the libraries for it decode into maps, which
// loses the order of members and the digits of numbers.
func MergePatch(target, patch []byte) []byte {
	r := newReader(patch)
	p := parsePatch(r)
	r.free()
	out := make([]byte, 0, len(target)+len(patch)+1)
	if target == nil {
		return p.appendTo(out)
	}
	r = newReader(target)
	defer r.free()
	return p.merge(out, r)
}

// patch is a parsed patch.
type patch struct {
	members []edit
	byName  map[string]int // places in members, by what their names mean, once there are more than fewMembers
}

// fewMembers is up to how many members are as soon gone through as looked up.
const fewMembers = 8

// edit is a member of a patch: a value, an object to merge, or neither, to
// remove the member.
type edit struct {
	name   []byte // JSON text
	means  []byte // name without quotation marks and escapes
	value  []byte
	object *patch
	used   bool // the target has such a member
}

// find returns the member whose name means the same, however it is escaped; nil
// if there is none.
func (p *patch) find(means []byte) *edit {
	if p.byName != nil {
		if i, found := p.byName[string(means)]; found {
			return &p.members[i]
		}
		return nil
	}
	for i := range p.members {
		if bytes.Equal(p.members[i].means, means) {
			return &p.members[i]
		}
	}
	return nil
}

func parsePatch(r *reader) *patch {
	p := &patch{}
	r.object(func(name []byte) {
		c := edit{name: name, means: meaning(name)}
		switch r.json.PeekKind() {
		case 'n':
			r.value()
		case '{':
			c.object = parsePatch(r)
		default:
			c.value = r.value()
		}
		p.members = append(p.members, c)
	})
	if len(p.members) > fewMembers {
		p.byName = make(map[string]int, len(p.members))
		for i := range p.members {
			p.byName[string(p.members[i].means)] = i
		}
	}
	return p
}

// merge appends the object that r is at with p applied.
func (p *patch) merge(out []byte, r *reader) []byte {
	start := len(out)
	r.object(func(name []byte) {
		c := p.find(meaning(name))
		if c == nil {
			out = append(appendName(out, start, name), r.value()...)
			return
		}
		c.used = true
		if c.object != nil && r.json.PeekKind() == '{' {
			out = c.object.merge(appendName(out, start, name), r)
			return
		}
		r.value()
		out = c.appendTo(out, start, name)
	})
	return p.close(out, start)
}

// appendTo appends p applied to an empty object.
func (p *patch) appendTo(out []byte) []byte { return p.close(out, len(out)) }

// close appends the members of p that were not used, and ends the object that
// began at start.
func (p *patch) close(out []byte, start int) []byte {
	for i := range p.members {
		if c := &p.members[i]; !c.used {
			out = c.appendTo(out, start, c.name)
		}
	}
	if len(out) == start {
		out = append(out, '{')
	}
	return append(out, '}')
}

// appendTo appends what c sets a member to, if anything.
func (c *edit) appendTo(out []byte, start int, name []byte) []byte {
	switch {
	case c.object != nil:
		return c.object.appendTo(appendName(out, start, name))
	case c.value != nil:
		return append(appendName(out, start, name), c.value...)
	}
	return out
}

// appendName begins a member of the object that begins at start.
func appendName(out []byte, start int, name []byte) []byte {
	if len(out) == start {
		out = append(out, '{')
	} else {
		out = append(out, ',')
	}
	return append(append(out, name...), ':')
}

// reader reads valid JSON, of which it returns parts.
type reader struct {
	json *jsontext.Decoder
	text []byte
}

var readers = sync.Pool{New: func() any { return &reader{json: jsontext.NewDecoder(new(bytes.Buffer))} }}

// newReader returns a reader of text; free lets it be used again.
func newReader(text []byte) *reader {
	r := readers.Get().(*reader)
	r.text = text
	r.json.Reset(bytes.NewBuffer(text), jsontext.AllowDuplicateNames(true))
	return r
}

func (r *reader) free() {
	r.text = nil
	readers.Put(r)
}

// value reads one value. The text is valid, so that nothing here can fail.
func (r *reader) value() []byte {
	v, _ := r.json.ReadValue()
	end := int(r.json.InputOffset())
	return r.text[end-len(v) : end : end]
}

// object reads an object and calls member with each name, to read the value.
func (r *reader) object(member func(name []byte)) {
	r.json.ReadToken()
	for r.json.PeekKind() == '"' {
		member(r.value())
	}
	r.json.ReadToken()
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
