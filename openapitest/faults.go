package openapitest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/zstd"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// exchange is a request and its answer.
type exchange struct {
	req     *http.Request
	reqBody []byte
	res     *http.Response
	resBody []byte
}

// route returns the route of the document that a request belongs to.
func (d *Document) route(req *http.Request) string {
	path := req.URL.EscapedPath() // an escaped slash is no slash
	route := unknownPath
	for known := range d.operations {
		method, template, _ := strings.Cut(known, " ")
		switch {
		case !strings.HasPrefix(template, "/") || !matches(template, path):
		case method == req.Method:
			return known
		case req.Method == http.MethodOptions && req.Header.Get("Access-Control-Request-Method") != "":
			route = preflight
		default:
			route = unknownMethod
		}
	}
	return route
}

// matches tells whether a path is one of a template such as "/v1/tokens/{id}".
func matches(template, path string) bool {
	names, parts := strings.Split(template, "/"), strings.Split(path, "/")
	if len(names) != len(parts) {
		return false
	}
	for i, name := range names {
		if name != parts[i] && (!strings.HasPrefix(name, "{") || parts[i] == "") {
			return false
		}
	}
	return true
}

// faults returns what is wrong with an exchange.
func (d *Document) faults(x exchange) faults {
	route := d.route(x.req)
	o := d.operations[route]
	r, ok := o.responses[x.res.StatusCode]
	if !ok {
		return faults{fmt.Sprintf("status %d is not documented for %s", x.res.StatusCode, route)}
	}
	var f faults
	f.checkHeaders(d, r, x.res.Header)
	if x.req.Method != http.MethodHead {
		f.checkBody(r, x.res, x.resBody)
	}
	if x.res.StatusCode < 400 { // what was refused need not fit
		f.checkRequest(o, x.req, x.reqBody)
	}
	return f
}

type faults []string

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

func (f *faults) checkHeaders(d *Document, r response, header http.Header) {
	declared := map[string]bool{}
	for _, h := range slices.Concat(r.headers, d.common) {
		declared[h.name] = true
		f.checkField(h, "header", strings.Join(header.Values(h.name), ", "), len(header.Values(h.name)) > 0)
	}
	// A header that the document knows means something, so it must not be on
	// an answer that does not declare it (X-Mutation-At on an error, say).
	for name := range d.headers {
		if !declared[name] && len(header.Values(name)) > 0 {
			f.add("header %s is not documented for this answer", name)
		}
	}
}

func (f *faults) checkBody(r response, res *http.Response, body []byte) {
	body, err := Decoded(res.Header.Get("Content-Encoding"), body)
	if err != nil {
		f.add("Content-Encoding: %v", err)
		return
	}
	if len(r.bodies) == 0 {
		if len(body) > 0 {
			f.add("the answer must not have a body, not %q", body)
		}
		return
	}
	contentType := res.Header.Get("Content-Type")
	schema := r.bodies[contentType]
	if text, ok := strings.CutSuffix(strings.ToLower(contentType), "; charset=utf-8"); ok && !isJSON(text) {
		schema = r.bodies[text]
	}
	switch {
	case schema == nil:
		f.add("Content-Type %q is not documented for this answer", contentType)
	case isJSON(contentType):
		f.checkJSONForm(body)
		f.checkJSON("body", schema, body)
	default:
		f.validate("body", schema, string(body))
	}
}

// checkJSONForm demands one line of JSON without white space between tokens,
// duplicate names and invalid UTF-8.
func (f *faults) checkJSONForm(body []byte) {
	compact := jsontext.Value(slices.Clone(body))
	if !compact.IsValid() {
		f.add("the body is not strict JSON: %q", body)
	} else if compact.Compact() != nil || string(body) != string(compact)+"\n" {
		f.add("the body is not one line of compact JSON: %q", body)
	}
}

func (f *faults) checkRequest(o operation, req *http.Request, body []byte) {
	query, err := url.ParseQuery(req.URL.RawQuery)
	if err != nil {
		f.add("a query that does not parse was accepted: %v", err)
	}
	for _, p := range o.parameters {
		if p.in == "path" {
			continue // the route has it
		}
		values := query[p.name]
		if p.in == "header" {
			values = req.Header.Values(p.name)
		}
		if len(values) > 1 {
			f.add("%s parameter %s was accepted %d times", p.in, p.name, len(values))
		}
		f.checkField(p, p.in+" parameter of the accepted request", strings.Join(values, ","), len(values) > 0)
	}
	if len(o.bodies) > 0 {
		contentType, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
		if schema := o.bodies[contentType]; schema != nil && isJSON(contentType) {
			f.checkJSON("body of the accepted request", schema, body)
		} else if schema != nil {
			f.validate("body of the accepted request", schema, string(body))
		} else {
			f.add("a body of Content-Type %q was accepted", contentType)
		}
	}
}

func (f *faults) checkField(d field, kind, value string, present bool) {
	switch {
	case present:
		f.validate(kind+" "+d.name, d.schema, d.parse(value))
	case d.required:
		f.add("%s %s is missing", kind, d.name)
	}
}

func (f *faults) checkJSON(what string, schema *jsonschema.Schema, text []byte) {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		f.add("%s: %v", what, err)
		return
	}
	f.validate(what, schema, plainIntegers(value))
}

func (f *faults) validate(what string, schema *jsonschema.Schema, value any) {
	if err := schema.Validate(value); err != nil {
		f.add("%s: %v", what, err)
	}
}

// plainIntegers turns every number that is not written as a plain integer into
// a string. Outside of data, where anything goes, the contract has integers
// only, and clients that read 64-bit integers choke on 1.0, which is an integer
// for JSON Schema.
func plainIntegers(value any) any {
	switch v := value.(type) {
	case json.Number:
		if !integer.MatchString(v.String()) {
			return v.String()
		}
	case []any:
		for i := range v {
			v[i] = plainIntegers(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = plainIntegers(v[name])
		}
	}
	return value
}

var (
	integer = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)
	number  = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)
)

// parse reads the text of a parameter or header as the type that its schema
// wants; what it cannot be read as stays a string, which the schema refuses.
func (d field) parse(text string) any {
	grammar := integer
	if d.in == "query" {
		grammar = number // requests may write 1.5e3
	}
	switch d.kind() {
	case "integer":
		if grammar.MatchString(text) {
			return json.Number(text)
		}
	case "boolean":
		if text == "true" || text == "false" {
			return text == "true"
		}
	case "array":
		var items []any
		for item := range strings.SplitSeq(text, ",") {
			items = append(items, item)
		}
		return items
	}
	return text
}

// kind returns the type that the schema of d demands.
func (d field) kind() string {
	for s := d.schema; s != nil; s = s.Ref {
		if s.Types != nil {
			return s.Types.ToStrings()[0]
		}
	}
	return ""
}

func isJSON(contentType string) bool {
	return contentType == "application/json" || strings.HasSuffix(contentType, "+json")
}

// Decoded undoes a Content-Encoding.
func Decoded(encoding string, body []byte) ([]byte, error) {
	if len(body) == 0 { // as in answers to HEAD
		return nil, nil
	}
	switch encoding {
	case "gzip":
		r, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(r)
	case "zstd":
		r, err := zstd.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		defer r.Close()
		return io.ReadAll(r)
	}
	return body, nil
}
