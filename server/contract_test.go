package server_test

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"sync"
	"testing"

	"tidemark/openapitest"
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

// contract is openapi.yaml, which is read once.
var contract = sync.OnceValues(func() (*openapitest.Document, error) { return openapitest.Read("../openapi.yaml") })

// contractTransport checks every exchange against openapi.yaml, and for leaks.
type contractTransport struct {
	t    testing.TB
	next http.RoundTripper // nil means http.DefaultTransport
}

func (c contractTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	c.t.Helper()
	d, err := contract()
	if err != nil {
		return nil, err
	}
	return openapitest.Transport{T: c.t, Document: d, Next: c.next, Also: checkLeaks}.RoundTrip(req)
}

// checkAnswer fails the test if the answer does not fit openapi.yaml, or if a
// request was accepted that does not.
func checkAnswer(t testing.TB, req *http.Request, reqBody []byte, res *http.Response, resBody []byte) {
	t.Helper()
	if d, err := contract(); err != nil {
		t.Error(err)
	} else {
		d.Check(t, req, reqBody, res, resBody)
	}
}

// documentRoutes returns the routes of openapi.yaml, sorted, like "GET /v1/sync".
func documentRoutes(t testing.TB) []string {
	t.Helper()
	d, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	return d.Routes()
}

// neverSeen returns what openapi.yaml describes and no test has seen.
func neverSeen() []string {
	d, err := contract()
	if err != nil {
		return []string{err.Error()}
	}
	return d.NeverSeen(unprovokable)
}
