package openapitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// Transport checks every exchange against a document and remembers that it was
// seen. It reads whole answers before it hands them on, so tests of streaming
// and of memory must go without it.
type Transport struct {
	T        testing.TB
	Document *Document
	Next     http.RoundTripper // nil means http.DefaultTransport

	// Also, if it is not nil, is a check of each exchange beside that.
	Also func(t testing.TB, req *http.Request, reqBody []byte, res *http.Response, resBody []byte)
}

// RoundTrip implements http.RoundTripper.
func (c Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	c.T.Helper()
	var reqBody []byte
	if req.Body != nil {
		var err error
		if reqBody, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body.Close()
		req = req.Clone(req.Context()) // a RoundTripper must not change the request
		req.Body = io.NopCloser(bytes.NewReader(reqBody))
	}
	next := c.Next
	if next == nil {
		next = http.DefaultTransport
	}
	res, err := next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resBody, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil { // an answer that was cut short is no answer; let the test find the same
		res.Body = io.NopCloser(io.MultiReader(bytes.NewReader(resBody), failingReader{err}))
		return res, nil
	}
	res.Body = io.NopCloser(bytes.NewReader(resBody))
	if c.Also != nil {
		c.Also(c.T, req, reqBody, res, resBody)
	}
	c.Document.Check(c.T, req, reqBody, res, resBody)
	return res, nil
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// Check fails the test if the answer does not fit the document, or if a request
// was accepted that does not; otherwise it remembers that it was seen.
func (d *Document) Check(t testing.TB, req *http.Request, reqBody []byte, res *http.Response, resBody []byte) {
	t.Helper()
	faults := d.faults(exchange{req, reqBody, res, resBody})
	for _, fault := range faults {
		t.Errorf("%s %s, answered %d, breaks the OpenAPI document: %s", req.Method, req.URL.RequestURI(), res.StatusCode, fault)
	}
	if len(faults) > 0 {
		return
	}
	var code string
	if res.StatusCode >= 400 {
		code = ErrorCode(res, resBody)
	}
	d.seen.Store(sighting(d.route(req), res.StatusCode, code), true)
}

// Routes returns the routes of the document, sorted, like "GET /v1/sync".
func (d *Document) Routes() []string {
	routes := slices.Sorted(maps.Keys(d.operations))
	return slices.DeleteFunc(routes, func(r string) bool { return r == unknownPath || r == unknownMethod || r == preflight })
}

// sighting names one kind of answer, like "GET /v1/sync 400 InvalidRequestError".
func sighting(route string, status int, code string) string {
	return strings.TrimSpace(fmt.Sprint(route, " ", status, " ", code))
}

// ErrorCode returns the code of an error in either of its forms.
func ErrorCode(res *http.Response, body []byte) string {
	var e struct {
		Code  string
		Error struct{ Code string }
	}
	body, _ = Decoded(res.Header.Get("Content-Encoding"), body)
	if json.Unmarshal(body, &e) != nil || e.Code != "" {
		return e.Code
	}
	return e.Error.Code
}

// NeverSeen returns a complaint for each kind of answer that is documented and
// was not seen, and for each of unprovokable, which says why some cannot be, that
// has lost its meaning.
func (d *Document) NeverSeen(unprovokable map[string]string) []string {
	var complaints []string
	documented := d.sightings()
	for _, s := range documented {
		if _, ok := d.seen.Load(s); !ok && unprovokable[s] == "" {
			complaints = append(complaints, "the OpenAPI document describes what no test has seen: "+s)
		}
	}
	for s := range unprovokable {
		if _, ok := d.seen.Load(s); ok {
			complaints = append(complaints, "unprovokable lists what a test has seen: "+s)
		}
		if !slices.Contains(documented, s) {
			complaints = append(complaints, "unprovokable lists what the OpenAPI document does not describe: "+s)
		}
	}
	return complaints
}

// sightings returns every kind of answer that the document describes, sorted.
func (d *Document) sightings() []string {
	var all []string
	for route, o := range d.operations {
		for status, r := range o.responses {
			if len(r.codes) == 0 || strings.HasPrefix(route, http.MethodHead) {
				all = append(all, sighting(route, status, ""))
				continue
			}
			for _, code := range r.codes {
				all = append(all, sighting(route, status, code))
			}
		}
	}
	slices.Sort(all)
	return all
}
