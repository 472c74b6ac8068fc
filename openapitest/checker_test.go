package openapitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// contract is the document that the examples of these tests are of.
var contract = sync.OnceValues(func() (*Document, error) { return Read("../openapi.yaml") })

// TestContractCheckerComplains makes one thing wrong in a good exchange at a
// time.
func TestContractCheckerComplains(t *testing.T) {
	d, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	inBody := func(from, to string) func(*exchange) {
		return func(x *exchange) {
			if !bytes.Contains(x.resBody, []byte(from)) {
				t.Fatalf("%q does not hold %q", x.resBody, from)
			}
			x.resBody = bytes.Replace(x.resBody, []byte(from), []byte(to), 1)
		}
	}
	header := func(name, value string) func(*exchange) {
		return func(x *exchange) {
			x.res.Header.Del(name)
			if value != "" {
				x.res.Header.Set(name, value)
			}
		}
	}
	status := func(status int) func(*exchange) {
		return func(x *exchange) { x.res.StatusCode = status }
	}
	target := func(method, uri string) func(*exchange) {
		return func(x *exchange) { x.req.Method = method; x.req.URL, _ = url.Parse(uri) }
	}

	for _, c := range []struct {
		name   string
		good   func() exchange
		change func(*exchange)
		want   string
	}{
		{"member too many", goodPush, inBody(`"success":true`, `"success":true,"took":3`), "additional properties 'took' not allowed"},
		{"member too many deep inside", goodPush, inBody(`"resource":"NOTE"`, `"resource":"NOTE","seq":1`), "'seq' not allowed"},
		{"member missing", goodPush, inBody(`,"timestamp":1769340915573`, ``), "missing property 'timestamp'"},
		{"wrong value", goodPush, inBody(`"success":true`, `"success":false`), "value must be true"},
		{"cursor as a float", goodPush, inBody(`"lastMutationAt":1769340915573`, `"lastMutationAt":1769340915573.0`), "got string, want integer"},
		{"cursor beyond 2^53", goodPush, inBody(`"lastMutationAt":1769340915573`, `"lastMutationAt":9007199254740992`), "maximum"},
		{"duplicate member", goodPush, inBody(`"success":true`, `"success":true,"success":true`), "not strict JSON"},
		{"white space", goodPush, inBody(`"success":true`, `"success": true`), "one line of compact JSON"},
		{"no line feed", goodPush, inBody("\n", ""), "one line of compact JSON"},
		{"cut short", goodPush, inBody("}}\n", "}"), "not strict JSON"},
		{"empty body", goodPush, func(x *exchange) { x.resBody = nil }, "EOF"},

		{"header missing", goodPush, header("X-Mutation-At", ""), "header X-Mutation-At is missing"},
		{"common header missing", goodRefusal, header("X-Request-Id", ""), "header X-Request-Id is missing"},
		{"header with a wrong value", goodPush, header("Cache-Control", "private"), "header Cache-Control"},
		{"header as a float", goodPush, header("X-Mutation-At", "1.769340915573e12"), "header X-Mutation-At"},
		{"header twice", goodPush, func(x *exchange) { x.res.Header.Add("X-Mutation-At", "1769340915573") }, "header X-Mutation-At"},
		{"header of another answer", goodPush, header("ETag", `W/"1769340915573"`), "header ETag is not documented"},
		{"new head on an error", goodRefusal, header("X-Mutation-At", "1769340915573"), "header X-Mutation-At is not documented"},

		{"no content type", goodPush, header("Content-Type", ""), "Content-Type"},
		{"content type with a parameter", goodPush, header("Content-Type", "application/json; charset=utf-8"), "Content-Type"},
		{"content type of another answer", goodPush, header("Content-Type", "application/problem+json"), "Content-Type"},
		{"not compressed as it says", goodPush, header("Content-Encoding", "gzip"), "Content-Encoding: gzip"},

		{"undocumented status", goodPush, status(201), "status 201 is not documented for POST /v1/sync"},
		{"status of another route", goodPush, status(304), "status 304 is not documented"},
		{"status of another error", goodRefusal, status(413), "value must be"},
		{"undocumented error code", goodRefusal, inBody(`"OutOfSyncError"`, `"StaleError"`), "value must be 'OutOfSyncError'"},
		{"undocumented type", goodRefusal, inBody(`"type":"conflict"`, `"type":"stale"`), "value must be 'conflict'"},
		{"details of another error", goodRefusal, inBody(`"reason":"first_sync"`, `"reason":"gone"`), "value must be one of"},
		{"reworded message", goodRefusal, inBody(`First sync detected.`, `Welcome.`), "value must be one of"},
		{"undocumented path answered", goodPush, target("POST", "/v2/sync?lastMutationAt=-1"), "status 200 is not documented for unknown path"},
		{"undocumented method answered", goodPush, target("PUT", "/v1/sync?lastMutationAt=-1"), "status 200 is not documented for unknown method"},
		{"slash too many answered", goodPush, target("POST", "/v1/sync/?lastMutationAt=-1"), "for unknown path"},
		{"escaped slash answered", goodPush, target("POST", "/v1%2Fsync?lastMutationAt=-1"), "for unknown path"},
		{"body where there is none", goodUnchanged, func(x *exchange) { x.resBody = []byte("{}") }, "must not have a body"},

		{"accepted without a cursor", goodPush, target("POST", "/v1/sync"), "lastMutationAt is missing"},
		{"accepted two cursors", goodPush, target("POST", "/v1/sync?lastMutationAt=-1&lastMutationAt=-1"), "accepted 2 times"},
		{"accepted a fraction", goodPush, target("POST", "/v1/sync?lastMutationAt=1.5"), "lastMutationAt"},
		{"accepted a wrong number", goodPush, target("POST", "/v1/sync?lastMutationAt=01"), "lastMutationAt"},
		{"accepted a broken query", goodPush, target("POST", "/v1/sync?lastMutationAt=-1&x=%zz"), "does not parse"},
		{"accepted a boolean like 1", goodPush, target("POST", "/v1/sync?lastMutationAt=-1&merge=1"), "merge"},
		{"accepted a wrong name", goodUnchanged, target("GET", "/v1/sync?mutationsSince=0&resources=NOTE,,TAG"), "resources"},
		{"accepted an empty header", goodPush, func(x *exchange) { x.req.Header.Set("Idempotency-Key", "") }, "Idempotency-Key"},
		{"accepted another media type", goodPush, func(x *exchange) { x.req.Header.Set("Content-Type", "text/plain") }, "text/plain"},
		{"accepted a misspelt member", goodPush, func(x *exchange) {
			x.reqBody = bytes.Replace(x.reqBody, []byte(`"resource"`), []byte(`"ressource"`), 1)
		}, "body of the accepted request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := c.good()
			if found := d.faults(x); len(found) > 0 {
				t.Fatalf("before the change: %q", found)
			}
			c.change(&x)
			if found := fmt.Sprint(d.faults(x)); !strings.Contains(found, c.want) {
				t.Errorf("the checker says %q, nothing of %q", found, c.want)
			}
		})
	}
}

func goodPush() exchange {
	return exchange{
		req:     madeRequest("POST", "/v1/sync?lastMutationAt=-1"),
		reqBody: []byte(`{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"pages":1.0}}]}`),
		res:     madeAnswer(200, "Content-Type", "application/json", "X-Mutation-At", "1769340915573"),
		resBody: []byte(`{"success":true,"data":{"lastMutationAt":1769340915573,"mutations":[` +
			`{"type":"CREATE","resource":"NOTE","resourceId":"01KFTEZKVN3Q6WQ1W8D5V9ED6P","data":{"pages":1.0},"timestamp":1769340915573}]}}` + "\n"),
	}
}

func goodRefusal() exchange {
	const message = "First sync detected. Please use lastMutationAt=-1 for initial sync."
	return exchange{
		req:     madeRequest("POST", "/v1/sync?lastMutationAt=0"),
		reqBody: []byte(`{"mutations":[]}`),
		res:     madeAnswer(409, "Content-Type", "application/json"),
		resBody: []byte(`{"success":false,"type":"conflict","message":"` + message + `","error":{"code":"OutOfSyncError","message":"` + message + `",` +
			`"details":{"reason":"first_sync","clientLastMutationAt":0,"serverLastMutationAt":-1,"conflicts":[]}}}` + "\n"),
	}
}

func goodUnchanged() exchange {
	return exchange{
		req: madeRequest("GET", "/v1/sync?mutationsSince=1.769340915573e12&resources=NOTE,TAG"),
		res: madeAnswer(304, "ETag", `W/"1769340915573"`, "X-Mutation-At", "1769340915573"),
	}
}

func madeRequest(method, uri string) *http.Request {
	u, err := url.Parse(uri)
	if err != nil {
		panic(err)
	}
	return &http.Request{Method: method, URL: u, Header: http.Header{"Content-Type": {"application/json"}}}
}

func madeAnswer(status int, headers ...string) *http.Response {
	h := http.Header{}
	for pair := range slices.Chunk(append(headers, "Cache-Control", "no-store",
		"X-Request-Id", "01KFTEZKVP69WZJVP6YH3ZZWSD", "X-Content-Type-Options", "nosniff"), 2) {
		h.Set(pair[0], pair[1])
	}
	return &http.Response{StatusCode: status, Header: h}
}

// TestTransportComplains shows that a client that goes through a
// Transport fails its test on a wrong answer, and still gets it.
func TestTransportComplains(t *testing.T) {
	const wrong = `{"lastMutationAt":-1}`
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
	}))
	defer server.Close()
	d, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	spy := &spyTB{TB: t}
	client := http.Client{Transport: Transport{T: spy, Document: d}}
	res, err := client.Post(server.URL+"/v1/sync?lastMutationAt=-1", "application/json", strings.NewReader(wrong))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != wrong {
		t.Errorf("the client reads %q, %v", body, err)
	}
	if !strings.Contains(spy.complaints, "X-Mutation-At is missing") {
		t.Errorf("the test was told %q", spy.complaints)
	}
}

// spyTB is a test that notes its failures instead.
type spyTB struct {
	testing.TB
	complaints string
}

func (s *spyTB) Errorf(format string, args ...any) { s.complaints += fmt.Sprintf(format+"\n", args...) }

// TestContractCheckerAcceptsExamples plays every example of openapi.yaml as an
// answer, with the examples of its headers.
func TestContractCheckerAcceptsExamples(t *testing.T) {
	d, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	root, err := readDocument("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for path, item := range root.at("paths").members() {
		for method, o := range item.members() {
			for _, asked := range exampleRequests(strings.ToUpper(method), path, o) {
				for status, r := range o.at("responses").members() {
					for _, x := range exampleAnswers(status, r) {
						x.req, x.reqBody = asked.req, asked.reqBody
						for _, fault := range d.faults(x) {
							t.Errorf("%s %s %s: %s\n%s", method, path, status, fault, x.resBody)
						}
					}
				}
			}
		}
	}
}

// exampleRequests returns a request with every parameter for each example of a
// body of the operation o, or one without a body.
func exampleRequests(method, path string, o node) []exchange {
	query := url.Values{}
	req := madeRequest(method, path)
	for _, p := range o.at("parameters").elements() {
		value := exampleText(p)
		if p.at("in").text() == "query" {
			query.Set(p.at("name").text(), value)
		} else {
			req.Header.Set(p.at("name").text(), value)
		}
	}
	req.URL.RawQuery = query.Encode()
	requests := []exchange{}
	for _, content := range o.at("requestBody").at("content").members() {
		for _, body := range exampleBodies(content) {
			requests = append(requests, exchange{req: req, reqBody: body})
		}
	}
	if len(requests) == 0 {
		requests = append(requests, exchange{req: req})
	}
	return requests
}

// exampleAnswers returns an answer for each example of a body of r, or one
// without a body.
func exampleAnswers(status string, r node) []exchange {
	number, _ := strconv.Atoi(status)
	header := http.Header{}
	for name, h := range r.at("headers").members() {
		if name != "Content-Encoding" { // the examples are not compressed
			header.Set(name, exampleText(h))
		}
	}
	var answers []exchange
	for mediaType, content := range r.at("content").members() {
		for _, body := range exampleBodies(content) {
			h := header.Clone()
			h.Set("Content-Type", mediaType)
			answers = append(answers, exchange{res: &http.Response{StatusCode: number, Header: h}, resBody: body})
		}
	}
	if len(answers) == 0 {
		answers = append(answers, exchange{res: &http.Response{StatusCode: number, Header: header}})
	}
	return answers
}

func exampleBodies(content node) [][]byte {
	examples := []any{content.at("example").value}
	if named := content.at("examples").members(); len(named) > 0 {
		examples = nil
		for _, e := range named {
			examples = append(examples, e.at("value").value)
		}
	}
	var bodies [][]byte
	for _, e := range examples {
		if text, ok := e.(string); ok {
			bodies = append(bodies, []byte(text))
			continue
		}
		body, _ := json.Marshal(e)
		bodies = append(bodies, append(body, '\n'))
	}
	return bodies
}

// exampleText returns the example of a parameter or header as it is sent.
func exampleText(n node) string {
	if items, ok := n.at("example").value.([]any); ok {
		var texts []string
		for _, item := range items {
			texts = append(texts, fmt.Sprint(item))
		}
		return strings.Join(texts, ",")
	}
	return fmt.Sprint(n.at("example").value)
}
