package mutlog

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// Type says what a mutation does to its resource (rule 6).
type Type string

// The types of mutation.
const (
	Create Type = "CREATE"
	Update Type = "UPDATE"
	Delete Type = "DELETE"
)

// Bounds of names, in bytes.
const (
	MaxResourceBytes   = 64
	MaxResourceIDBytes = 128
)

// Mutation is one change of one resource, as devices send and receive it; its
// JSON is the wire shape.
type Mutation struct {
	Type Type

	// Resource is the kind of the resource: ^[A-Z][A-Z0-9_]{0,63}$.
	Resource string

	// ResourceID says which one: 1 to 128 bytes of printable UTF-8. It is
	// empty in a CREATE whose identifier the server is to assign.
	ResourceID string

	// Data is a JSON object as its client wrote it, byte for byte, or nil.
	Data []byte

	// Timestamp is assigned by the server; 0 in a mutation that is sent.
	Timestamp Timestamp
}

// Ref names one resource of a user.
type Ref struct {
	Resource   string
	ResourceID string
}

// Ref returns the resource that m changes.
func (m *Mutation) Ref() Ref { return Ref{m.Resource, m.ResourceID} }

// clone returns m in memory of its own.
func (m Mutation) clone() Mutation {
	m.Resource, m.ResourceID, m.Data = strings.Clone(m.Resource), strings.Clone(m.ResourceID), bytes.Clone(m.Data)
	return m
}

// AppendJSON appends the wire shape of m to dst. Data is left out where it is
// nil, and the timestamp where it is 0.
func (m *Mutation) AppendJSON(dst []byte) []byte {
	dst = append(dst, `{"type":"`...)
	dst = append(dst, m.Type...)
	dst = append(dst, `","resource":"`...)
	dst = append(dst, m.Resource...)
	dst = append(dst, '"')
	if m.ResourceID != "" {
		dst = append(dst, `,"resourceId":`...)
		dst = AppendQuoted(dst, m.ResourceID)
	}
	if m.Data != nil {
		dst = append(dst, `,"data":`...)
		dst = append(dst, m.Data...)
	}
	if m.Timestamp != 0 {
		dst = append(dst, `,"timestamp":`...)
		dst = strconv.AppendInt(dst, int64(m.Timestamp), 10)
	}
	return append(dst, '}')
}

// MarshalJSON returns the wire shape of m.
func (m Mutation) MarshalJSON() ([]byte, error) { return m.AppendJSON(nil), nil }

// UnmarshalJSON reads the wire shape of a mutation, as a server sends it: strict
// JSON, one of the types, and a timestamp that is one if it is there. Data keeps
// its bytes. Members that are not known are ignored: a later server may add
// some.
func (m *Mutation) UnmarshalJSON(raw []byte) error {
	if !validJSON(raw) || raw[0] != '{' {
		return errors.New("a mutation is not a strict JSON object")
	}
	var got Mutation
	var wrong string
	r := newReader(bytes.Clone(raw)) // raw belongs to the decoder
	r.object(func(rawName []byte) {
		name, value := unquote(rawName), r.value()
		s, isText := text(value)
		ok := true
		switch name {
		case "type":
			got.Type, ok = Type(s), isText
		case "resource":
			got.Resource, ok = s, isText && ValidResource(s)
		case "resourceId":
			got.ResourceID, ok = s, isText && ValidResourceID(s)
		case "data":
			got.Data, ok = value, value[0] == '{'
		case "timestamp":
			n, err := ParseNumber(s, 1, int64(MaxTimestamp))
			got.Timestamp, ok = Timestamp(n), !isText && err == nil
		}
		if !ok {
			wrong = name
		}
	})
	if wrong != "" {
		return fmt.Errorf("a mutation has a wrong %s", wrong)
	}
	if got.Type != Create && got.Type != Update && got.Type != Delete {
		return fmt.Errorf("a mutation has the type %q", clip(string(got.Type)))
	}
	if got.Resource == "" {
		return errors.New("a mutation has no resource")
	}
	*m = got
	return nil
}

// AppendQuoted appends s as a JSON string to dst.
func AppendQuoted(dst []byte, s string) []byte {
	if !isPlain(s) {
		dst, _ = jsontext.AppendQuote(dst, s) // its only error is invalid UTF-8, which it replaces
		return dst
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// isPlain tells whether s stands for itself in a JSON string: ASCII without
// control characters, quotation marks and backslashes. It looks at eight bytes
// at a time, because every mutation that is pulled comes by here.
func isPlain(s string) bool {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for ; len(s) >= 8; s = s[8:] {
		x := uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
			uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
		quote, backslash := x^'"'*ones, x^'\\'*ones
		if (x|(x-' '*ones)&^x|(quote-ones)&^quote|(backslash-ones)&^backslash)&tops != 0 {
			return false
		}
	}
	for _, c := range []byte(s) {
		if c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// ValidResource reports whether s can be the name of a kind of resource:
// ^[A-Z][A-Z0-9_]{0,63}$.
func ValidResource(s string) bool {
	if len(s) < 1 || len(s) > MaxResourceBytes || s[0] < 'A' || s[0] > 'Z' {
		return false
	}
	for _, c := range []byte(s) {
		if !('A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_') {
			return false
		}
	}
	return true
}

// ValidResourceID reports whether s can be the identifier of a resource: 1 to
// 128 bytes of valid UTF-8 that prints, that is without control and format
// characters, private use and line or paragraph separators.
func ValidResourceID(s string) bool {
	if len(s) < 1 || len(s) > MaxResourceIDBytes || !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < ' ' || r == 0x7f || r > 0x7f && unicode.In(r, unicode.C, unicode.Zl, unicode.Zp) {
			return false
		}
	}
	return true
}
