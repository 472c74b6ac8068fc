package server_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
)

// This file holds the server to openapi.yaml both ways: every answer that goes
// through a contractTransport must fit the document, and after a run of all
// tests everything in the document must have been seen.

// unprovokable lists what the document promises and no test can bring about,
// with the reason.
var unprovokable = map[string]string{}

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 && allTestsRan() {
		for _, complaint := range neverSeen() {
			fmt.Fprintln(os.Stderr, complaint)
			code = 1
		}
	}
	os.Exit(code)
}

// allTestsRan reports whether no flag has left tests out.
func allTestsRan() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list", "test.fuzz"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return false
		}
	}
	return !testing.Short()
}

// contractTransport checks every exchange against openapi.yaml and remembers
// that it was seen. It reads whole answers before it hands them on, so tests of
// streaming and of memory must go without it.
type contractTransport struct {
	t    testing.TB
	next http.RoundTripper // nil means http.DefaultTransport
}

func (c contractTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c.t.Helper()
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
	next := c.next
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
	checkLeaks(c.t, req, reqBody, res, resBody)
	if checkAnswer(c.t, req, reqBody, res, resBody) {
		remember(req, res, resBody)
	}
	return res, nil
}

type failingReader struct{ err error }

func (f failingReader) Read([]byte) (int, error) { return 0, f.err }

// checkAnswer fails the test if the answer does not fit openapi.yaml, or if a
// request was accepted that does not, and reports whether all is well.
func checkAnswer(t testing.TB, req *http.Request, reqBody []byte, res *http.Response, resBody []byte) bool {
	t.Helper()
	d, err := contract()
	if err != nil {
		t.Error(err)
		return false
	}
	faults := d.faults(exchange{req, reqBody, res, resBody})
	for _, fault := range faults {
		t.Errorf("%s %s, answered %d, breaks openapi.yaml: %s", req.Method, req.URL.RequestURI(), res.StatusCode, fault)
	}
	return len(faults) == 0
}

// documentRoutes returns the routes of openapi.yaml, sorted, like "GET /v1/sync".
func documentRoutes(t testing.TB) []string {
	t.Helper()
	d, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	routes := slices.Sorted(maps.Keys(d.operations))
	return slices.DeleteFunc(routes, func(r string) bool { return r == unknownPath || r == unknownMethod || r == preflight })
}

// What was seen, as sightings.
var sightings sync.Map

// sighting names one kind of answer, like "GET /v1/sync 400 InvalidRequestError".
func sighting(route string, status int, code string) string {
	return strings.TrimSpace(fmt.Sprint(route, " ", status, " ", code))
}

func remember(req *http.Request, res *http.Response, resBody []byte) {
	d, _ := contract()
	var code string
	if res.StatusCode >= 400 {
		code = errorCode(res, resBody)
	}
	sightings.Store(sighting(d.route(req), res.StatusCode, code), true)
}

// errorCode returns the code of an error in either of its forms.
func errorCode(res *http.Response, body []byte) string {
	var e struct {
		Code  string
		Error struct{ Code string }
	}
	body, _ = decoded(res.Header.Get("Content-Encoding"), body)
	if json.Unmarshal(body, &e) != nil || e.Code != "" {
		return e.Code
	}
	return e.Error.Code
}

// neverSeen returns a complaint for each kind of answer that is documented and
// was not seen, and for each exception that has lost its meaning.
func neverSeen() []string {
	d, err := contract()
	if err != nil {
		return []string{err.Error()}
	}
	var complaints []string
	documented := d.sightings()
	for _, s := range documented {
		if _, ok := sightings.Load(s); !ok && unprovokable[s] == "" {
			complaints = append(complaints, "openapi.yaml documents what no test has seen: "+s)
		}
	}
	for s := range unprovokable {
		if _, ok := sightings.Load(s); ok {
			complaints = append(complaints, "unprovokable lists what a test has seen: "+s)
		}
		if !slices.Contains(documented, s) {
			complaints = append(complaints, "unprovokable lists what openapi.yaml does not document: "+s)
		}
	}
	return complaints
}

// sightings returns every kind of answer that the document describes, sorted.
func (d *document) sightings() []string {
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
