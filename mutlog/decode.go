package mutlog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"
)

// Limits bound what one push may hold, and what it may leave.
type Limits struct {
	Mutations int   // mutations in a batch
	DataBytes int   // bytes of the data of one mutation, and of a resource's data after it
	Quota     Count // what a user may have alive; 0 for no bound
}

// DefaultLimits are the limits of the protocol.
var DefaultLimits = Limits{Mutations: 100, DataBytes: 64 << 10}

// MaxNesting is how many levels of objects and arrays the data of a mutation
// may have, itself included.
const MaxNesting = 64

// maxJSONDepth is the nesting at which the JSON reader itself gives up.
const maxJSONDepth = 10000

// maxFaults bounds how many faults a ValidationError lists, so that a small
// hostile body does not become a huge answer.
const maxFaults = 1000

// DecodePush reads the body of a push, {"mutations": [...]}, in one pass. What
// it returns aliases body, which must not be changed any more. A body that is
// no strict JSON (duplicate names, invalid UTF-8, lone surrogates and trailing
// data are faults, too) is a *SyntaxError; one that parses and breaks a rule is
// a *ValidationError with every fault, unless one of the mutations is of a kind
// that access hides: that is a *ScopeError. The whole body is parsed before any
// rule is looked at, so that the one is never taken for the other.
func DecodePush(body []byte, limits Limits, access Access) ([]Mutation, error) {
	d := pushDecoders.Get().(*pushDecoder)
	defer pushDecoders.Put(d)
	return d.decode(body, limits, access)
}

var pushDecoders = sync.Pool{New: func() any { return &pushDecoder{json: jsontext.NewDecoder(new(bytes.Buffer))} }}

// pushDecoder reads one body; it is reused to spare its buffers.
type pushDecoder struct {
	json   *jsontext.Decoder
	body   []byte
	limits Limits
	access Access
	hidden error // the first mutation that access hides
	faults faults
}

func (d *pushDecoder) decode(body []byte, limits Limits, access Access) ([]Mutation, error) {
	d.body, d.limits, d.access, d.hidden, d.faults = body, limits, access, nil, faults{}
	d.json.Reset(bytes.NewBuffer(body))
	defer func() { d.body, d.access = nil, Access{} }()

	mutations, found, err := d.push()
	if err == nil {
		err = d.end()
	}
	if err != nil {
		return nil, d.syntaxError(err)
	}
	if d.hidden != nil {
		return nil, d.hidden
	}
	switch {
	case !found:
		d.faults.prepend(Fault{Index: NoIndex, Member: "mutations", Message: "Invalid mutations"})
	case len(mutations) > limits.Mutations:
		d.faults.prepend(Fault{Index: NoIndex, Member: "mutations",
			Message: fmt.Sprintf("Mutations must not exceed %d", limits.Mutations)})
	}
	if len(d.faults.list) == 0 {
		return mutations, nil
	}
	known := len(d.faults.list)
	for i, found := range access.Kinds.created(mutations) {
		d.faults.violations(i, found)
	}
	if len(d.faults.list) > known {
		d.faults.sort()
	}
	return nil, d.faults.err()
}

// end makes sure that nothing follows the outermost value.
func (d *pushDecoder) end() error {
	rest := bytes.TrimLeft(d.body[d.json.InputOffset():], " \t\r\n")
	_, err := d.json.ReadToken()
	switch {
	case err == io.EOF:
		return nil
	case err == nil:
		return &SyntaxError{Offset: len(d.body) - len(rest), Reason: "there is more after the JSON value"}
	}
	return err
}

// push reads the outermost object; found tells whether it holds a valid list of
// mutations.
func (d *pushDecoder) push() (mutations []Mutation, found bool, err error) {
	if d.json.PeekKind() != '{' {
		_, err := d.json.ReadValue()
		return nil, false, err
	}
	err = d.object(func(name []byte) error {
		if string(name) != "mutations" {
			name := clip(string(name))
			d.faults.add(Fault{NoIndex, name, fmt.Sprintf("Unknown member: \"%s\"", name)})
			_, err := d.json.ReadValue()
			return err
		}
		if d.json.PeekKind() != '[' {
			_, err := d.json.ReadValue()
			return err
		}
		mutations, found, err = d.list()
		return err
	})
	return mutations, found, err
}

// list reads the array of mutations; ok is false if an element is no object.
// Past the limit it only parses.
func (d *pushDecoder) list() (mutations []Mutation, ok bool, err error) {
	if _, err := d.json.ReadToken(); err != nil {
		return nil, false, err
	}
	mutations, ok = make([]Mutation, 0, 8), true
	for d.json.PeekKind() != ']' {
		switch {
		case d.json.PeekKind() != '{':
			ok = false
			_, err = d.json.ReadValue()
		case len(mutations) > d.limits.Mutations:
			_, err = d.json.ReadValue()
		default:
			mutations = append(mutations, Mutation{})
			err = d.mutation(&mutations[len(mutations)-1], len(mutations)-1)
		}
		if err != nil {
			return nil, false, err
		}
	}
	_, err = d.json.ReadToken()
	return mutations, ok, err
}

// mutation reads one mutation and checks it (rule 5).
func (d *pushDecoder) mutation(m *Mutation, index int) error {
	var raw rawMutation
	var unknown []string
	err := d.object(func(name []byte) error {
		value, err := d.value()
		switch string(name) {
		case "type":
			raw.kind = value
		case "resource":
			raw.resource = value
		case "resourceId":
			raw.resourceID = value
		case "data":
			raw.data = value
		case "timestamp": // accepted and ignored, so that a pulled mutation can be sent back
			raw.timestamp = value
		default:
			unknown = append(unknown, clip(string(name)))
		}
		return err
	})
	if err != nil {
		return err
	}
	d.check(&raw, m, index)
	for _, name := range unknown {
		d.faults.add(Fault{index, name, fmt.Sprintf("Unknown member: \"%s\" at mutation[%d]", name, index)})
	}
	return nil
}

// object reads an object and calls member with each name, to read the value.
// The name is bytes, so that comparing it allocates nothing.
func (d *pushDecoder) object(member func(name []byte) error) error {
	if _, err := d.json.ReadToken(); err != nil {
		return err
	}
	for d.json.PeekKind() != '}' {
		name, err := d.value()
		if err != nil {
			return err
		}
		if err := member(meaning(name)); err != nil {
			return err
		}
	}
	_, err := d.json.ReadToken()
	return err
}

// value reads one value and returns its bytes in the body.
func (d *pushDecoder) value() ([]byte, error) {
	v, err := d.json.ReadValue()
	if err != nil {
		return nil, err
	}
	end := int(d.json.InputOffset())
	return d.body[end-len(v) : end : end], nil
}

// syntaxError turns an error of the JSON reader into a refusal. Nesting that is
// too deep for the reader is well-formed and merely not allowed.
func (d *pushDecoder) syntaxError(err error) error {
	if _, ok := err.(*SyntaxError); ok {
		return err
	}
	offset, reason := int(d.json.InputOffset()), err.Error()
	var syntactic *jsontext.SyntacticError
	if errors.As(err, &syntactic) {
		offset, reason = int(syntactic.ByteOffset), syntactic.Err.Error()
	}
	offset = min(max(offset, 0), len(d.body))
	if nesting(d.body[:offset]) >= maxJSONDepth {
		return &ValidationError{Faults: []Fault{{NoIndex, "mutations", fmt.Sprintf("Invalid mutations: nested more than %d levels", MaxNesting)}}}
	}
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		reason = "it ends too early"
	case strings.Contains(reason, "surrogate"):
		reason = "a lone surrogate" // the reader would quote what stands around it
	}
	return &SyntaxError{Offset: offset, Reason: clip(reason)}
}

// rawMutation holds the JSON text of the members of a mutation; nil is absent.
type rawMutation struct{ kind, resource, resourceID, data, timestamp []byte }

// check fills m from the raw members and adds the faults in the order of the
// protocol's messages. A null is the same as an absent member.
func (d *pushDecoder) check(r *rawMutation, m *Mutation, index int) {
	fault := func(member, format string, args ...any) {
		d.faults.at(index, member, fmt.Sprintf(format, args...), "")
	}

	resource, ok := text(r.resource)
	switch m.Resource = resource; {
	case absent(r.resource):
		fault("resource", "Missing resource")
	case !ok || !d.access.Kinds.Allow(resource):
		fault("resource", "Invalid resource: \"%s\"", clip(resource))
	}
	of := d.access.Kinds[m.Resource]
	if d.hidden == nil && d.access.hidden[m.Resource] {
		d.hidden = &ScopeError{Index: index, Resource: resource, Scope: of.Scope}
	}

	kind, ok := text(r.kind)
	switch m.Type = Type(kind); {
	case absent(r.kind):
		fault("type", "Missing mutation type")
	case !ok || m.Type != Create && m.Type != Update && m.Type != Delete:
		fault("type", "Invalid mutation type: \"%s\"", clip(kind))
	}

	id, ok := text(r.resourceID)
	switch m.ResourceID = id; {
	case absent(r.resourceID):
		if m.ResourceID = ""; !of.isComposite() && (m.Type == Update || m.Type == Delete) {
			fault("resourceId", "Missing resourceId")
		}
	case !ok || !ValidResourceID(id):
		fault("resourceId", "Invalid resourceId")
		m.ResourceID = "" // its data is looked at all the same
	}

	switch {
	case absent(r.data):
		if m.Type == Create || m.Type == Update {
			fault("data", "Missing data")
		}
	case r.data[0] != '{' || forbidden(r.data):
		fault("data", "Invalid data")
	case len(r.data) > of.dataBytes(d.limits):
		fault("data", "Data must not exceed %d bytes", of.dataBytes(d.limits))
	default:
		m.Data = r.data
	}
	if of.isComposite() && (m.Data != nil || m.Type == Delete && absent(r.data)) {
		of.identify(m, index, &d.faults)
	}

	if forbidden(r.timestamp) {
		fault("timestamp", "Invalid timestamp")
	}
}

// forbidden tells whether valid JSON holds what none of a push may.
func forbidden(raw []byte) bool { return nesting(raw) > MaxNesting || hasNUL(raw) }

func absent(raw []byte) bool { return raw == nil || raw[0] == 'n' }

// text returns the string that raw holds, or raw itself if it is no string.
func text(raw []byte) (s string, ok bool) {
	if len(raw) == 0 || raw[0] != '"' {
		return string(raw), false
	}
	switch string(raw) { // the compiler spares the allocations that the names of types would cost
	case `"CREATE"`:
		return string(Create), true
	case `"UPDATE"`:
		return string(Update), true
	case `"DELETE"`:
		return string(Delete), true
	}
	return unquote(raw), true
}

// unquote returns the value of a valid JSON string.
func unquote(raw []byte) string { return string(meaning(raw)) }

// meaning is unquote, but may alias raw.
func meaning(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	s, _ := jsontext.AppendUnquote(nil, raw) // raw has been validated
	return s
}

// nesting returns how deep objects and arrays nest in valid JSON.
func nesting(raw []byte) int {
	if n := bytes.Count(raw, []byte{'{'}) + bytes.Count(raw, []byte{'['}); n <= MaxNesting {
		return n // an upper bound, found much faster, is enough where nothing can be too deep
	}
	depth, deepest, inString := 0, 0, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// hasNUL reports whether a string in valid JSON holds U+0000, which
// PostgreSQL, for one, cannot store.
func hasNUL(raw []byte) bool {
	escape := []byte(`\u0000`)
	for {
		i := bytes.Index(raw, escape)
		if i < 0 {
			return false
		}
		// An even number of backslashes before it leaves this one an escape.
		before := i
		for before > 0 && raw[before-1] == '\\' {
			before--
		}
		if (i-before)%2 == 0 {
			return true
		}
		raw = raw[i+len(escape):]
	}
}

// clip shortens what a message quotes from a request.
func clip(s string) string {
	const most = 64
	for i := range s {
		if i >= most {
			return s[:i] + "…"
		}
	}
	return s
}

// faults collects the faults of a push, up to maxFaults.
type faults struct{ list []Fault }

func (f *faults) add(fault Fault) {
	if len(f.list) < maxFaults {
		f.list = append(f.list, fault)
	}
}

// at adds what is wrong with a member of a mutation, and why unless that is "".
func (f *faults) at(index int, member, what, why string) {
	if why != "" {
		why = ": " + why
	}
	f.add(Fault{index, member, fmt.Sprintf("%s at mutation[%d]%s", what, index, why)})
}

func (f *faults) prepend(fault Fault) {
	f.list = append([]Fault{fault}, f.list...)
}

func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return &ValidationError{Faults: f.list}
}
