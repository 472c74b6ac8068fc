// Package openapitest holds HTTP handlers to their OpenAPI documents, both ways,
// for tests only: every answer that goes through a Transport must fit the
// document, and NeverSeen tells what is in the document and was not answered.
package openapitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

// The schemas of OpenAPI 3.1 are JSON Schema 2020-12, so a validator of that
// does the hard part. The libraries that check whole answers were no help with
// the rest: they skip 304 and HEAD, let undeclared headers pass, and read the
// cursors of a query as floats.

// Document is what an OpenAPI document says, and which of its answers were seen.
type Document struct {
	operations map[string]operation // by route, like "GET /v1/sync"
	headers    map[string]bool      // every header that some answer declares
	common     []field              // headers that every answer may have
	seen       sync.Map             // sightings
}

// The routes of the requests that no operation describes (x-other-requests).
const (
	unknownPath   = "unknown path"
	unknownMethod = "unknown method"
	preflight     = "preflight"
)

type operation struct {
	parameters []field
	bodies     map[string]*jsonschema.Schema // by media type
	responses  map[int]response              // by status
}

type response struct {
	headers []field
	bodies  map[string]*jsonschema.Schema
	codes   []string // the error codes that the bodies may have
}

// field is a parameter or a header.
type field struct {
	name     string
	in       string // "query", "header" or "path"
	required bool
	schema   *jsonschema.Schema
}

// Read reads the document in a file.
func Read(path string) (*Document, error) {
	root, err := readDocument(path)
	if err != nil {
		return nil, err
	}
	l := loader{compiler: jsonschema.NewCompiler()}
	l.compiler.DefaultDraft(jsonschema.Draft2020)
	if err := l.compiler.AddResource(documentURL, root.value); err != nil {
		return nil, err
	}
	d := &Document{operations: map[string]operation{}, headers: map[string]bool{}}
	for path, item := range root.at("paths").members() {
		for method, o := range item.members() {
			d.operations[strings.ToUpper(method)+" "+path] = l.operation(o)
		}
	}
	other := root.at("x-other-requests")
	d.operations[unknownPath] = l.operation(other.at("unknownPath"))
	d.operations[unknownMethod] = l.operation(other.at("unknownMethod"))
	d.operations[preflight] = l.operation(other.at("preflight"))
	for name, h := range root.at("x-common-headers").members() {
		d.common = append(d.common, l.field(h, name, "header"))
	}
	for _, o := range d.operations {
		for _, r := range o.responses {
			for _, h := range r.headers {
				d.headers[h.name] = true
			}
		}
	}
	return d, l.err
}

// documentURL only has to be the same in AddResource and Compile.
const documentURL = "file:///openapi.yaml"

func readDocument(path string) (node, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return node{}, err
	}
	var tree any
	if err := yaml.Unmarshal(text, &tree); err != nil {
		return node{}, err
	}
	// By way of JSON, because the validator knows numbers as json.Number.
	asJSON, err := json.Marshal(tree)
	if err != nil {
		return node{}, err
	}
	if tree, err = jsonschema.UnmarshalJSON(bytes.NewReader(asJSON)); err != nil {
		return node{}, err
	}
	return node{root: tree, value: tree}, nil
}

// loader turns nodes into what they mean. It keeps the first error.
type loader struct {
	compiler *jsonschema.Compiler
	err      error
}

func (l *loader) operation(n node) operation {
	o := operation{bodies: l.bodies(n.at("requestBody")), responses: map[int]response{}}
	for _, p := range n.at("parameters").elements() {
		o.parameters = append(o.parameters, l.field(p, p.at("name").text(), p.at("in").text()))
	}
	for status, r := range n.at("responses").members() {
		number, err := strconv.Atoi(status)
		l.keep(err)
		o.responses[number] = l.response(r)
	}
	return o
}

func (l *loader) response(n node) response {
	r := response{bodies: l.bodies(n), codes: n.at("content").at("application/json").errorCodes()}
	for name, h := range n.at("headers").members() {
		r.headers = append(r.headers, l.field(h, name, "header"))
	}
	return r
}

func (l *loader) field(n node, name, in string) field {
	required, _ := n.at("required").value.(bool)
	return field{name, in, required, l.schema(n)}
}

func (l *loader) bodies(n node) map[string]*jsonschema.Schema {
	bodies := map[string]*jsonschema.Schema{}
	for mediaType, content := range n.at("content").members() {
		bodies[mediaType] = l.schema(content)
	}
	return bodies
}

// schema compiles the schema of n where it stands, so that a reference in it,
// and what is written beside the reference, means what JSON Schema says.
func (l *loader) schema(n node) *jsonschema.Schema {
	s, err := l.compiler.Compile(documentURL + "#" + n.child("schema").pointer)
	l.keep(err)
	return s
}

func (l *loader) keep(err error) {
	if l.err == nil && err != nil {
		l.err = fmt.Errorf("the OpenAPI document: %w", err)
	}
}

// node is a place in the document; what is not there has a nil value.
type node struct {
	root    any
	pointer string // the JSON pointer of the place
	value   any
}

// at returns the member called name, or what that refers to.
func (n node) at(name string) node { return n.child(name).resolved() }

func (n node) child(name string) node {
	escaped := strings.NewReplacer("~", "~0", "/", "~1").Replace(name)
	object, _ := n.value.(map[string]any)
	return node{n.root, n.pointer + "/" + escaped, object[name]}
}

// resolved follows a reference to another part of the document.
func (n node) resolved() node {
	object, _ := n.value.(map[string]any)
	ref, ok := object["$ref"].(string)
	if !ok {
		return n
	}
	target := node{root: n.root, value: n.root}
	for name := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
		target = target.child(name)
	}
	return target.resolved()
}

func (n node) members() map[string]node {
	object, _ := n.value.(map[string]any)
	members := map[string]node{}
	for name := range object {
		members[name] = n.at(name)
	}
	return members
}

func (n node) elements() []node {
	array, _ := n.value.([]any)
	var elements []node
	for i, value := range array {
		elements = append(elements, node{n.root, fmt.Sprint(n.pointer, "/", i), value}.resolved())
	}
	return elements
}

func (n node) text() string {
	s, _ := n.value.(string)
	return s
}

// errorCodes returns the constants that schemas at and below n give to a
// member called code.
func (n node) errorCodes() []string {
	found := map[string]bool{}
	var walk func(node)
	walk = func(n node) {
		if code := n.at("properties").at("code").at("const").text(); code != "" {
			found[code] = true
		}
		for _, m := range n.members() {
			walk(m)
		}
		for _, e := range n.elements() {
			walk(e)
		}
	}
	walk(n)
	return slices.Sorted(maps.Keys(found))
}
