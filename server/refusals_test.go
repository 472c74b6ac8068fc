package server_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/client"
	"tidemark/mutlog"
	"tidemark/server"
)

// refusal is a request, and the error that it must be answered with.
type refusal struct {
	method, uri, body string
	headers           []string
	status            int
	message, details  string
}

// kinds are the type and code of the statuses that have one of each.
var kinds = map[int][2]string{
	400: {"invalid_request", "InvalidRequestError"},
	403: {"forbidden", "ForbiddenError"},
	401: {"unauthorized", "UnauthorizedError"},
	404: {"not_found", "NotFoundError"},
	405: {"method_not_allowed", "MethodNotAllowedError"},
	409: {"conflict", "OutOfSyncError"},
	413: {"payload_too_large", "PayloadTooLargeError"},
	415: {"unsupported_media_type", "UnsupportedMediaTypeError"},
	422: {"unprocessable_entity", "ValidationError"},
	429: {"rate_limit_exceeded", "RateLimitError"},
	500: {"internal_server_error", "InternalError"},
	503: {"service_unavailable", "UnavailableError"},
}

// refused makes the request and compares the whole answer.
func (r *rig) refused(c refusal) {
	r.t.Helper()
	got := r.send(c.method, c.uri, c.body, c.headers...)
	kind := kinds[c.status]
	if got.StatusCode != c.status {
		r.t.Errorf("%s %.80s %.80s %.80v: status %d, want %d: %.300s", c.method, c.uri, c.body, c.headers, got.StatusCode, c.status, got.body)
		return
	}
	if diff := cmp.Diff(envelope(kind[0], kind[1], c.message, c.details), got.body); diff != "" {
		r.t.Errorf("%s %.80s %.80s %.80v (-want +got):\n%s", c.method, c.uri, c.body, c.headers, diff)
	}
	if got.Header.Get("Content-Type") != "application/json" {
		r.t.Errorf("%s %.80s: Content-Type %q", c.method, c.uri, got.Header.Get("Content-Type"))
	}
}

// unchanged checks that the head of the log is still head.
func (r *rig) unchanged(head mutlog.Timestamp) {
	r.t.Helper()
	got, err := r.client("").Head(r.t.Context())
	if err != nil || got != head {
		r.t.Errorf("the head is %d (%v), want %d: a refusal has changed the log", got, err, head)
	}
}

const good = `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"n":1}}]}`

// What is answered with 404, 405, 413 and 415.
func TestRefusalsOfTransport(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.MaxBodyBytes = 1000 })
	for _, path := range []string{"/x", "/v1", "/v1/", "/v1/sync/", "/V1/SYNC", "//v1/sync", "/v1/../v1/sync", "/v1//sync",
		"/v1%2fsync", "/v1/sync%2f", "/v1/sync/events/", "/openapi.yaml/", "/metrics", "/debug/pprof/", "/admin", "/index.html"} {
		for _, method := range []string{"GET", "POST", "DELETE"} {
			r.refused(refusal{method, path, "", nil, 404, "There is nothing at this path", ""})
		}
	}

	for uri, allow := range map[string]string{"/v1/sync": "GET, POST", "/v1/sync/events": "GET", "/v1/sync/events/ticket": "POST", "/": "GET, HEAD", "/openapi.yaml": "GET, HEAD", "/livez": "GET, HEAD", "/readyz": "GET, HEAD"} {
		for _, method := range []string{"PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "get"} {
			list := `{"allow":["` + strings.ReplaceAll(allow, ", ", `","`) + `"]}`
			r.refused(refusal{method, uri, "", nil, 405, "This path does not know the method " + method, list})
			if got := r.send(method, uri, ""); got.Header.Get("Allow") != allow {
				t.Errorf("%s %s: Allow %q, want %q", method, uri, got.Header.Get("Allow"), allow)
			}
		}
	}
	if got := r.send("HEAD", "/v1/sync?mutationsSince=0", ""); got.StatusCode != 405 || got.body != "" {
		t.Errorf("HEAD /v1/sync: %d %q", got.StatusCode, got.body)
	}

	const media = "The body must be application/json in UTF-8, without Content-Encoding"
	for _, header := range []string{"Content-Type:", "Content-Type: text/plain", "Content-Type: application/x-www-form-urlencoded",
		"Content-Type: multipart/form-data; boundary=x", "Content-Type: application/xml", "Content-Type: application/problem+json",
		"Content-Type: application/json; charset=utf-16", "Content-Type: application/json; charset=latin1",
		"Content-Type: application/json, application/json", "Content-Type: json", "Content-Type: application/json; charset",
		"Content-Encoding: gzip", "Content-Encoding: zstd", "Content-Encoding: identity, gzip"} {
		r.refused(refusal{"POST", "/v1/sync?lastMutationAt=-1", good, []string{header}, 415, media, ""})
	}
	r.refused(refusal{"POST", "/v1/sync?lastMutationAt=-1", good,
		[]string{"Content-Type: application/json", "Content-Type: application/json"}, 415, media, ""})

	large := good + strings.Repeat(" ", 1000-len(good)+1)
	r.refused(refusal{"POST", "/v1/sync?lastMutationAt=-1", large, nil, 413, "The body must not exceed 1000 bytes", `{"limit":1000}`})
	r.unchanged(mutlog.Beginning)

	for i, header := range []string{"Content-Type: application/json;charset=UTF-8", "Content-Type: application/json; foo=bar",
		"Content-Type: Application/JSON", "Content-Encoding: identity"} {
		user := fmt.Sprintf("X-User-Id: %d", i)
		if got := r.post("lastMutationAt=-1", large[:1000], header, user); got.StatusCode != 200 {
			t.Errorf("%s: %d %s", header, got.StatusCode, got.body)
		}
	}
}

// Section 1 of the protocol on cursors, and what else a query can have wrong.
func TestRefusalsOfQuery(t *testing.T) {
	r := newRig(t)
	get := func(query string, status int, message, details string) {
		t.Helper()
		r.refused(refusal{"GET", "/v1/sync?" + query, "", nil, status, message, details})
	}
	post := func(query string, status int, message, details string) {
		t.Helper()
		r.refused(refusal{"POST", "/v1/sync?" + query, good, nil, status, message, details})
	}
	parameter := func(name string) string { return fmt.Sprintf(`{"parameter":%q}`, name) }
	wrong := func(name, message string) string {
		return fmt.Sprintf(`{"errors":[{"member":%q,"message":%q}]}`, name, message)
	}

	get("", 400, "The parameter mutationsSince is required", parameter("mutationsSince"))
	post("", 400, "The parameter lastMutationAt is required", parameter("lastMutationAt"))
	post("mutationsSince=-1", 400, "The parameter lastMutationAt is required", parameter("lastMutationAt"))
	get("lastMutationAt=-1", 400, "The parameter mutationsSince is required", parameter("mutationsSince"))
	get("metadataOnly=true", 400, "The parameter mutationsSince is required", parameter("mutationsSince"))

	// Every number is read by the same rules.
	numbers := []struct {
		name string
		ask  func(value string, status int, message, details string)
	}{
		{"lastMutationAt", func(v string, s int, m, d string) { t.Helper(); post("lastMutationAt="+v, s, m, d) }},
		{"mutationsSince", func(v string, s int, m, d string) { t.Helper(); get("mutationsSince="+v, s, m, d) }},
		{"after", func(v string, s int, m, d string) { t.Helper(); get("mutationsSince=0&limit=1&after="+v, s, m, d) }},
		{"limit", func(v string, s int, m, d string) { t.Helper(); get("mutationsSince=0&limit="+v, s, m, d) }},
		{"page", func(v string, s int, m, d string) { t.Helper(); get("mutationsSince=0&page="+v, s, m, d) }},
	}
	ranges := map[string][2]int64{"limit": {1, 1000}, "page": {1, 1<<53 - 1}}
	for _, n := range numbers {
		is := "The parameter " + n.name + " "
		n.ask("", 400, is+"is empty", parameter(n.name))
		n.ask("1&"+n.name+"=1", 400, is+"is repeated", parameter(n.name))
		n.ask("1&"+n.name+"=2", 400, is+"is repeated", parameter(n.name))
		n.ask("x&"+n.name+"=-2", 400, is+"is repeated", parameter(n.name))
		for _, v := range []string{"%201", "1%20", "+1", "%2B1", "01", "-01", "00", "--1", "-", "0x10", "0x1p4", "1_000", "1,000",
			"1.", ".5", "1e", "1e+", "1e1.5", "NaN", "nan", "Inf", "-Inf", "infinity", "null", "true", "undefined", "abc", "%22",
			"1%00", "1%0a", "1%0d%0a", "%EF%BC%91", "%D9%A1", "%FF", strings.Repeat("1", 33), strings.Repeat("0", 33),
			"1." + strings.Repeat("0", 31), strings.Repeat("9", 10000)} {
			n.ask(v, 400, is+"is not a decimal number", parameter(n.name))
		}
		low, high := int64(-1), int64(1<<53-1)
		if bounds, ok := ranges[n.name]; ok {
			low, high = bounds[0], bounds[1]
		}
		for _, v := range []string{"1731636500303.5", "0.5", "1e-1", "-1.5", "1e-400", "15e-1"} {
			n.ask(v, 422, is+"must be an integer", wrong(n.name, is+"must be an integer"))
		}
		outside := fmt.Sprintf("%smust be from %d to %d", is, low, high)
		for _, v := range []string{"-2", "-2.0", "-9223372036854775808", "9007199254740992", "9007199254740993", "9223372036854775807",
			"9223372036854775808", "18446744073709551615", "1e400", "1e16", "1" + strings.Repeat("0", 30), "-1e999999999"} {
			n.ask(v, 422, outside, wrong(n.name, outside))
		}
	}
	for _, v := range []string{"0", "-1", "1001", "1e9", "1001.0"} {
		get("mutationsSince=0&limit="+v, 422, "The parameter limit must be from 1 to 1000", wrong("limit", "The parameter limit must be from 1 to 1000"))
	}
	for _, v := range []string{"0", "-1", "0.0"} {
		const message = "The parameter page must be from 1 to 9007199254740991"
		get("mutationsSince=0&page="+v, 422, message, wrong("page", message))
	}

	for _, name := range []string{"metadataOnly", "history"} {
		for _, v := range []string{"TRUE", "True", "1", "0", "yes", "null", "%20true"} {
			get("mutationsSince=0&"+name+"="+v, 400, "The parameter "+name+" must be true or false", parameter(name))
		}
		get("mutationsSince=0&"+name+"=", 400, "The parameter "+name+" is empty", parameter(name))
		get("mutationsSince=0&"+name+"=true&"+name+"=true", 400, "The parameter "+name+" is repeated", parameter(name))
	}
	post("lastMutationAt=-1&merge=yes", 400, "The parameter merge must be true or false", parameter("merge"))
	post("lastMutationAt=-1&merge=", 400, "The parameter merge is empty", parameter("merge"))
	post("lastMutationAt=-1&merge=true&merge=true", 400, "The parameter merge is repeated", parameter("merge"))

	for value, item := range map[string]string{"bookmark": "bookmark", "NOTE,,TAG": "", "NOTE,": "", ",": "", "NOTE, TAG": " TAG", "9": "9", "N%C3%96TE": "NÖTE"} {
		message := fmt.Sprintf("The parameter resources has an item that is no resource: %q", item)
		got := r.get("mutationsSince=0&resources=" + strings.ReplaceAll(value, " ", "%20"))
		if !strings.HasPrefix(got.body, `{"success":false,"type":"unprocessable_entity","message":"`+strings.ReplaceAll(message, `"`, `\"`)) {
			t.Errorf("resources=%s: %s", value, got.body)
		}
	}
	get("mutationsSince=0&resources=", 400, "The parameter resources is empty", parameter("resources"))
	get("mutationsSince=0&resources=A&resources=B", 400, "The parameter resources is repeated", parameter("resources"))

	// A pair that contradicts itself is named, both of it.
	for _, pair := range [][2]string{{"page", "after"}, {"page", "history"}, {"history", "metadataOnly"}, {"after", "metadataOnly"}, {"page", "metadataOnly"}} {
		query := "mutationsSince=0"
		for _, name := range pair {
			query += "&" + name + "=" + map[string]string{"page": "1", "after": "1", "history": "true", "metadataOnly": "true"}[name]
		}
		message := fmt.Sprintf("The parameters %s and %s contradict each other", pair[0], pair[1])
		get(query, 422, message, fmt.Sprintf(`{"errors":[{"member":%q,"message":%q},{"member":%q,"message":%q}]}`, pair[0], message, pair[1], message))
	}

	const stray = "The query does not parse: a stray % or ;"
	for _, query := range []string{"mutationsSince=0;limit=1", "mutationsSince=0&x=%zz", "mutationsSince=0&%", "mutationsSince=0%", ";", "x;y&mutationsSince=0"} {
		get(query, 400, stray, "")
		post(strings.Replace(query, "mutationsSince=0", "lastMutationAt=-1", 1), 400, stray, "")
	}
	for _, n := range []int{100, 5000} {
		get("mutationsSince=0"+strings.Repeat("&a", n), 400, "The query must not have more than 100 parameters", "")
	}
	r.unchanged(mutlog.Beginning)

	// What is none of these is fine, and unknown parameters are ignored.
	for _, query := range []string{"mutationsSince=0&unknown=1&unknown=2&x", "mutationsSince=-1.0", "mutationsSince=-0", "mutationsSince=0e5",
		"mutationsSince=-10e-1", "mutationsSince=0&limit=100.0", "mutationsSince=0&limit=1e3", "mutationsSince=0&page=1e15",
		"mutationsSince=9007199254740991&metadataOnly=true", "mutationsSince=0" + strings.Repeat("&a", 99),
		"mutationsSince=0&metadataOnly=false&history=true", "mutationsSince=0&limit=1&metadataOnly=true"} {
		if got := r.get(query); got.StatusCode != 200 {
			t.Errorf("%.60s: %d %s", query, got.StatusCode, got.body)
		}
	}
}

// The headers that a client may send, sections 2 and 5 of the protocol.
func TestRefusalsOfHeaders(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct{ header, what string }{
		{"Idempotency-Key:", "is empty"},
		{`Idempotency-Key: ""`, "has characters that are not allowed"},
		{"Idempotency-Key: a\tb", "has characters that are not allowed"},
		{"Idempotency-Key: schlüssel", "has characters that are not allowed"},
		{"Idempotency-Key: " + strings.Repeat("k", 256), "must not exceed 255 bytes"},
		{"x-client-id:", "is empty"},
		{"x-client-id: a\tb", "has characters that are not allowed"},
		{"x-client-id: a\u0085b", "has characters that are not allowed"},
		{"x-client-id: \xff", "has characters that are not allowed"},
		{"x-client-id: " + strings.Repeat("k", 256), "must not exceed 255 bytes"},
		{"X-User-Id:", "is empty"},
		{"X-User-Id: a\tb", "has characters that are not allowed"},
		{"X-User-Id: \xff", "has characters that are not allowed"},
		{"X-User-Id: " + strings.Repeat("u", 256), "must not exceed 255 bytes"},
	} {
		name, _, _ := strings.Cut(c.header, ":")
		details := fmt.Sprintf(`{"header":%q}`, name)
		r.refused(refusal{"POST", "/v1/sync?lastMutationAt=-1", good, []string{c.header}, 400, "The header " + name + " " + c.what, details})
		r.refused(refusal{"POST", "/v1/sync?lastMutationAt=-1", good, []string{name + ": a", name + ": a"}, 400, "The header " + name + " is repeated", details})
		if name == "X-User-Id" {
			r.refused(refusal{"GET", "/v1/sync?mutationsSince=0", "", []string{c.header}, 400, "The header " + name + " " + c.what, details})
		}
	}
	r.unchanged(mutlog.Beginning)

	for i, header := range []string{"Idempotency-Key: " + strings.Repeat("k", 255), `Idempotency-Key: "quoted key"`, "Idempotency-Key: ~!@",
		"x-client-id: " + strings.Repeat("ü", 127), "If-Match: x", "Range: bytes=0-1", "Expect: 100-continue"} {
		if got := r.post("lastMutationAt=-1", good, header, fmt.Sprintf("X-User-Id: %d", i)); got.StatusCode != 200 {
			t.Errorf("%s: %d %s", header, got.StatusCode, got.body)
		}
	}
	long := strings.Repeat("ü", 127)
	if got := r.post("lastMutationAt=-1", good, "X-User-Id: "+long); got.StatusCode != 200 {
		t.Errorf("a user of 254 bytes: %d %s", got.StatusCode, got.body)
	}
}

// Bodies: faults of the JSON are 400, and what it says is 422.
func TestRefusalsOfBody(t *testing.T) {
	r := newRig(t)
	for _, body := range []string{"", " ", "\n\t ", "{", `{"mutations":[`, `{"mutations":[]}{"x":1}`, `{"mutations":[]} garbage`, `{"mutations":[]}}`,
		`{"mutations":[],}`, `{"mutations":[{},]}`, `{"mutations":[]/**/}`, `{'mutations':[]}`, `{mutations:[]}`, `{"mutations":NaN}`,
		`{"mutations":[],"mutations":[]}`, `{"mutations":[],"mut\u0061tions":[]}`, `{"mutations":[{"type":"CREATE","type":"CREATE"}]}`,
		`{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"a":1,"a":2}}]}`,
		`{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"a":[{"b":1,"\u0062":2}]}}]}`,
		"{\"mutations\":[{\"type\":\"CREATE\",\"resource\":\"NOTE\",\"data\":{\"a\":\"\xff\"}}]}",
		"{\"mutations\":[{\"type\":\"CREATE\",\"resource\":\"NOTE\",\"data\":{\"\xc0\xaf\":1}}]}",
		`{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"a":"\ud800"}}]}`,
		`{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"\udc00\ud800":1}}]}`,
		"{\"mutations\":[{\"type\":\"CREATE\",\"resource\":\"NOTE\",\"data\":{\"a\":\"\n\"}}]}",
		`{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"a":01}}]}`, `{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"a":.5}}]}`,
		"\ufeff" + good, `{"mutations":[nul]}`, `{"mutations":["\x"]}`} {
		got := r.post("lastMutationAt=-1", body, "Content-Type: application/json")
		if got.StatusCode != 400 || !strings.Contains(got.body, `"message":"The body is not valid JSON: `) || !strings.Contains(got.body, `"details":{"offset":`) {
			t.Errorf("%q: %d %s", body, got.StatusCode, got.body)
		}
	}

	// The message of the first fault, and whether it is about one mutation.
	const create = `"type":"CREATE","resource":"NOTE"`
	for body, want := range map[string]string{
		`null`: "Invalid mutations", `[]`: "Invalid mutations", `"x"`: "Invalid mutations", `1`: "Invalid mutations", `true`: "Invalid mutations",
		`{}`: "Invalid mutations", `{"mutations":null}`: "Invalid mutations", `{"mutations":{}}`: "Invalid mutations", `{"mutations":"x"}`: "Invalid mutations",
		`{"mutations":[null]}`: "Invalid mutations", `{"mutations":[[]]}`: "Invalid mutations", `{"mutations":[1]}`: "Invalid mutations",
		`{"Mutations":[]}`: "Invalid mutations", `{"mutations":[],"x":1}`: `Unknown member: "x"`,
		`{"mutations":[` + strings.Repeat(`{},`, 100) + `{}]}`: "Mutations must not exceed 100",
		`{"mutations":[{}]}`:                                                               "Missing resource at mutation[0]",
		`{"mutations":[{"type":"CREATE","data":{}}]}`:                                      "Missing resource at mutation[0]",
		`{"mutations":[{"type":"CREATE","resource":null,"data":{}}]}`:                      "Missing resource at mutation[0]",
		`{"mutations":[{"type":"CREATE","resource":"bookmark","data":{}}]}`:                `Invalid resource: "bookmark" at mutation[0]`,
		`{"mutations":[{"type":"CREATE","resource":"","data":{}}]}`:                        `Invalid resource: "" at mutation[0]`,
		`{"mutations":[{"type":"CREATE","resource":1,"data":{}}]}`:                         `Invalid resource: "1" at mutation[0]`,
		`{"mutations":[{"type":"CREATE","resource":"NOTE\u0000","data":{}}]}`:              "Invalid resource: \"NOTE\x00\" at mutation[0]",
		`{"mutations":[{"resource":"NOTE","data":{}}]}`:                                    "Missing mutation type at mutation[0]",
		`{"mutations":[{"type":null,"resource":"NOTE","data":{}}]}`:                        "Missing mutation type at mutation[0]",
		`{"mutations":[{"type":"create","resource":"NOTE","data":{}}]}`:                    `Invalid mutation type: "create" at mutation[0]`,
		`{"mutations":[{"type":"UPSERT","resource":"NOTE","data":{}}]}`:                    `Invalid mutation type: "UPSERT" at mutation[0]`,
		`{"mutations":[{"type":1,"resource":"NOTE","data":{}}]}`:                           `Invalid mutation type: "1" at mutation[0]`,
		`{"mutations":[{"type":"UPDATE","resource":"NOTE","data":{}}]}`:                    "Missing resourceId at mutation[0]",
		`{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":null}]}`:            "Missing resourceId at mutation[0]",
		`{"mutations":[{` + create + `,"resourceId":"","data":{}}]}`:                       "Invalid resourceId at mutation[0]",
		`{"mutations":[{` + create + `,"resourceId":1,"data":{}}]}`:                        "Invalid resourceId at mutation[0]",
		`{"mutations":[{` + create + `,"resourceId":"a\u0000","data":{}}]}`:                "Invalid resourceId at mutation[0]",
		`{"mutations":[{` + create + `,"resourceId":"a\nb","data":{}}]}`:                   "Invalid resourceId at mutation[0]",
		`{"mutations":[{` + create + `,"resourceId":"` + x(129) + `","data":{}}]}`:         "Invalid resourceId at mutation[0]",
		`{"mutations":[{` + create + `}]}`:                                                 "Missing data at mutation[0]",
		`{"mutations":[{` + create + `,"data":null}]}`:                                     "Missing data at mutation[0]",
		`{"mutations":[{"type":"UPDATE","resource":"NOTE","resourceId":"a"}]}`:             "Missing data at mutation[0]",
		`{"mutations":[{` + create + `,"data":[]}]}`:                                       "Invalid data at mutation[0]",
		`{"mutations":[{` + create + `,"data":"{}"}]}`:                                     "Invalid data at mutation[0]",
		`{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"a","data":1}]}`:    "Invalid data at mutation[0]",
		`{"mutations":[{` + create + `,"data":{"a":"\u0000"}}]}`:                           "Invalid data at mutation[0]",
		`{"mutations":[{` + create + `,"data":{"\u0000":1}}]}`:                             "Invalid data at mutation[0]",
		`{"mutations":[{` + create + `,"data":{"a":"\\\u0000"}}]}`:                         "Invalid data at mutation[0]",
		`{"mutations":[{` + create + `,"data":` + nested(65) + `}]}`:                       "Invalid data at mutation[0]",
		`{"mutations":[{` + create + `,"data":` + nested(100000) + `}]}`:                   "Invalid mutations: nested more than 64 levels",
		`{"mutations":[{` + create + `,"data":{"a":"` + x(65536-8+1) + `"}}]}`:             "Data must not exceed 65536 bytes at mutation[0]",
		`{"mutations":[{` + create + `,"data":{},"userId":"me"}]}`:                         `Unknown member: "userId" at mutation[0]`,
		`{"mutations":[{` + create + `,"data":{},"Data":{}}]}`:                             `Unknown member: "Data" at mutation[0]`,
		`{"mutations":[` + strings.Repeat(`{`+create+`,"data":{}},`, 99) + `{"data":{}}]}`: "Missing resource at mutation[99]",
	} {
		got := r.post("lastMutationAt=-1", body)
		if prefix := strings.TrimSuffix(envelope("unprocessable_entity", "ValidationError", want, `{"errors":[{`), "}}\n"); got.StatusCode != 422 || !strings.HasPrefix(got.body, prefix) {
			t.Errorf("%.150s:\n got %d %.300s\nwant 422 %s", body, got.StatusCode, got.body, prefix)
		}
	}
	r.refused(refusal{"POST", "/v1/sync?lastMutationAt=1.5", `{"mutations":[{"type":"x","resource":"y","z":1},{"type":"DELETE","resource":"NOTE","resourceId":"a"},{}],"v":0}`, nil, 422,
		"The parameter lastMutationAt must be an integer", `{"errors":[` +
			`{"member":"lastMutationAt","message":"The parameter lastMutationAt must be an integer"},` +
			`{"index":0,"member":"resource","message":"Invalid resource: \"y\" at mutation[0]"},` +
			`{"index":0,"member":"type","message":"Invalid mutation type: \"x\" at mutation[0]"},` +
			`{"index":0,"member":"z","message":"Unknown member: \"z\" at mutation[0]"},` +
			`{"index":2,"member":"resource","message":"Missing resource at mutation[2]"},` +
			`{"index":2,"member":"type","message":"Missing mutation type at mutation[2]"},` +
			`{"member":"v","message":"Unknown member: \"v\""}]}`})
	r.unchanged(mutlog.Beginning)

	for i, body := range []string{`{"mutations":[]}`, " \n" + good + "\t", `{"mutations":[{` + create + `,"resourceId":null,"data":{}}]}`,
		`{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"a","data":null,"timestamp":5}]}`,
		`{"mutations":[{` + create + `,"data":` + nested(64) + `}]}`, `{"mutations":[{` + create + `,"data":{"a":"\\u0000"}}]}`,
		`{"mutations":[{` + create + `,"data":{"a":"` + x(65536-8) + `"}}]}`} {
		if got := r.post("lastMutationAt=-1", body, fmt.Sprintf("X-User-Id: %d", i)); got.StatusCode != 200 {
			t.Errorf("%.100s: %d %.200s", body, got.StatusCode, got.body)
		}
	}
}

func x(n int) string { return strings.Repeat("x", n) }

// nested returns an object of n levels.
func nested(n int) string { return strings.Repeat(`{"a":`, n-1) + "{}" + strings.Repeat("}", n-1) }

// The order of refusals, with every pair of things wrong: the answer is
// about the one that comes first.
func TestOrderOfRefusals(t *testing.T) {
	type request struct {
		path, method, lastMutationAt, extra, body, padding string
		headers                                            []string
	}
	add := func(header string) func(*request) { return func(r *request) { r.headers = append(r.headers, header) } }
	defects := []struct {
		name   string
		status int
		code   string
		make   func(*request)
	}{
		{"path", 404, "NotFoundError", func(r *request) { r.path = "/v1/sink" }},
		{"method", 405, "MethodNotAllowedError", func(r *request) { r.method = "PUT" }},
		{"user", 400, "InvalidRequestError", add("X-User-Id: a\tb")},
		{"media type", 415, "UnsupportedMediaTypeError", add("Content-Type: text/plain")},
		{"content encoding", 415, "UnsupportedMediaTypeError", add("Content-Encoding: br")},
		{"size", 413, "PayloadTooLargeError", func(r *request) { r.padding = strings.Repeat(" ", 2000) }},
		{"grammar of the query", 400, "InvalidRequestError", func(r *request) { r.extra = "&merge=yes" }},
		{"grammar of the key", 400, "InvalidRequestError", add(`Idempotency-Key:`)},
		{"grammar of the client", 400, "InvalidRequestError", add("x-client-id: a\tb")},
		{"grammar of the body", 400, "InvalidRequestError", func(r *request) { r.body += "x" }},
		{"meaning of the query", 422, "ValidationError", func(r *request) { r.lastMutationAt = "-2" }},
		{"meaning of the body", 422, "ValidationError", func(r *request) { r.body = `{"mutations":[{}]}` }},
		{"key used before", 422, "IdempotencyKeyReuseError", add("Idempotency-Key: used")},
		{"cursor", 409, "OutOfSyncError", func(r *request) { r.lastMutationAt = "5" }},
	}
	r := newRig(t, func(o *server.Options) { o.MaxBodyBytes = 1000 })
	if got := r.post("lastMutationAt=-1", `{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"z"}]}`, "Idempotency-Key: used"); got.StatusCode != 200 {
		t.Fatal(got.body)
	}
	try := func(what string, status int, code string, makes ...func(*request)) {
		t.Helper()
		q := request{path: "/v1/sync", method: "POST", lastMutationAt: start.String(), body: good}
		for _, f := range makes {
			f(&q)
		}
		got := r.send(q.method, q.path+"?lastMutationAt="+q.lastMutationAt+q.extra, q.body+q.padding, q.headers...)
		if got.StatusCode != status || !strings.Contains(got.body, `"code":"`+code+`"`) {
			t.Errorf("%s: %d %s, want %d %s", what, got.StatusCode, got.body, status, code)
		}
	}
	for i, first := range defects {
		try(first.name, first.status, first.code, first.make)
		for _, second := range defects[i+1:] {
			// The later one is made first, so that the earlier one stands where they share a place.
			try(first.name+" and "+second.name, first.status, first.code, second.make, first.make)
		}
	}
	r.unchanged(start)
	// A pull has fewer to order.
	for query, status := range map[string]int{
		"mutationsSince=5&limit=0&history=x": 400, "mutationsSince=9007199254740991&limit=0": 422,
		"mutationsSince=9007199254740991&page=1&after=x": 400, "mutationsSince=9007199254740991&page=1&after=1": 422,
		"mutationsSince=9007199254740991": 409,
	} {
		if got := r.get(query); got.StatusCode != status {
			t.Errorf("%s: %d %s, want %d", query, got.StatusCode, got.body, status)
		}
	}
}

// The two messages and the reasons of a 409, but for the one
// that retention will bring.
func TestRefusalsOfCursor(t *testing.T) {
	const (
		firstSync = "First sync detected. Please use lastMutationAt=-1 for initial sync."
		resync    = "Invalid lastMutationAt, please re-sync your data and try again."
	)
	r := newRig(t)
	post := func(query, body, message, details string) {
		t.Helper()
		r.refused(refusal{"POST", "/v1/sync?" + query, body, nil, 409, message, details})
	}
	for _, cursor := range []string{"0", "1", "1731636500", "9007199254740991"} {
		post("lastMutationAt="+cursor, good, firstSync, `{"reason":"first_sync","clientLastMutationAt":`+cursor+`,"serverLastMutationAt":-1,"conflicts":[]}`)
		post("lastMutationAt="+cursor+"&merge=true", `{"mutations":[]}`, firstSync, `{"reason":"first_sync","clientLastMutationAt":`+cursor+`,"serverLastMutationAt":-1,"conflicts":[]}`)
		if cursor != "0" {
			r.refused(refusal{"GET", "/v1/sync?mutationsSince=" + cursor, "", nil, 409, firstSync, `{"reason":"cursor_ahead","clientLastMutationAt":` + cursor + `,"serverLastMutationAt":-1}`})
		}
	}
	r.unchanged(mutlog.Beginning)

	c := r.client("")
	head := mustPush(t, c, mutlog.Beginning, create("a", `{"x":1,"same":true,"gone":0}`), create("b", `{}`), create("c", `{"n":1.0}`))
	head = mustPush(t, c, head, update("a", `{"x":2,"gone":null,"new":{"y":[1]}}`), remove("b"))
	base := head - 2
	post(fmt.Sprintf("lastMutationAt=%d", base), `{"mutations":[`+
		`{"type":"UPDATE","resource":"NOTE","resourceId":"c","data":{"n":2}},`+
		`{"type":"UPDATE","resource":"NOTE","resourceId":"a","data":{"x":3,"same":true,"gone":null,"mine":"é"}},`+
		`{"type":"DELETE","resource":"NOTE","resourceId":"b"},`+
		`{"type":"CREATE","resource":"TAG","resourceId":"a","data":{}}]}`, resync,
		fmt.Sprintf(`{"reason":"stale_cursor","clientLastMutationAt":%d,"serverLastMutationAt":%d,"conflicts":[`+
			`{"index":1,"resource":"NOTE","resourceId":"a","client":{"type":"UPDATE","data":{"x":3,"same":true,"gone":null,"mine":"é"}},`+
			`"server":{"type":"UPDATE","data":{"x":2,"same":true,"new":{"y":[1]}},"timestamp":%d},"fields":["mine","x"]},`+
			`{"index":2,"resource":"NOTE","resourceId":"b","client":{"type":"DELETE"},"server":{"type":"DELETE","timestamp":%d},"fields":[]}]}`,
			base, head, head-1, head))
	for _, merge := range []string{"", "&merge=true"} {
		post(fmt.Sprintf("lastMutationAt=%d%s", head+1, merge), good, resync,
			fmt.Sprintf(`{"reason":"cursor_ahead","clientLastMutationAt":%d,"serverLastMutationAt":%d,"conflicts":[]}`, head+1, head))
	}
	post("lastMutationAt=-1", `{"mutations":[]}`, resync, fmt.Sprintf(`{"reason":"stale_cursor","clientLastMutationAt":-1,"serverLastMutationAt":%d,"conflicts":[]}`, head))
	r.refused(refusal{"GET", fmt.Sprintf("/v1/sync?mutationsSince=%d", head+1), "", nil, 409, resync,
		fmt.Sprintf(`{"reason":"cursor_ahead","clientLastMutationAt":%d,"serverLastMutationAt":%d}`, head+1, head)})
	// Another user's head is as good as any other wrong cursor, and only the own head is told.
	r.refused(refusal{"POST", fmt.Sprintf("/v1/sync?lastMutationAt=%d", head), good, []string{"X-User-Id: other"}, 409, firstSync,
		fmt.Sprintf(`{"reason":"first_sync","clientLastMutationAt":%d,"serverLastMutationAt":-1,"conflicts":[]}`, head)})
	r.unchanged(head)
}

// A body that no Content-Length announces is read no further than the limit,
// and the answer does not wait for the rest of it.
func TestChunkedBodyOverLimit(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.MaxBodyBytes = 1000 })
	c := r.dial()
	defer c.Close()
	began := time.Now()
	fmt.Fprintf(c, "POST /v1/sync?lastMutationAt=-1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"3e9\r\n%s\r\n", strings.Repeat(" ", 1001)) // and there the client stops
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	want := envelope("payload_too_large", "PayloadTooLargeError", "The body must not exceed 1000 bytes", `{"limit":1000}`)
	if res.StatusCode != 413 || string(body) != want || !res.Close {
		t.Errorf("%d %s, close %v", res.StatusCode, body, res.Close)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the answer took %v", took)
	}
	chunked := "POST /v1/sync?lastMutationAt=-1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
	if got := r.speak(fmt.Sprintf("%s%x\r\n%s\r\n0\r\n\r\n", chunked, len(good), good)); !strings.HasPrefix(got, "HTTP/1.1 200 ") {
		t.Errorf("a small chunked body: %s", got)
	}
}

// Requests that are cut off change nothing, wherever that is.
func TestTruncatedRequests(t *testing.T) {
	r := newRig(t)
	for n := range len(good) {
		if got := r.post("lastMutationAt=-1", good[:n], "Content-Type: application/json"); got.StatusCode != 400 {
			t.Errorf("the first %d bytes of a body: %d %s", n, got.StatusCode, got.body)
		}
	}
	whole := fmt.Sprintf("POST /v1/sync?lastMutationAt=-1 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(good), good)
	for n := range len(whole) {
		c := r.dial()
		io.WriteString(c, whole[:n])
		c.CloseWrite()
		got, _ := io.ReadAll(c)
		c.Close()
		if len(got) > 0 && !strings.HasPrefix(string(got), "HTTP/1.1 400 ") {
			t.Errorf("the first %d bytes of a request: %s", n, got)
		}
	}
	r.unchanged(mutlog.Beginning)
	mustPush(t, r.client(""), mutlog.Beginning, create("a", "{}"))
}

// What net/http answers by itself.
func TestRefusalsOfNetHTTP(t *testing.T) {
	r := newRig(t)
	const get = "GET /v1/sync?mutationsSince=0 HTTP/1.1\r\nHost: x\r\n"
	for request, status := range map[string]string{
		"GET / HTTP/1.1\r\n\r\n":                                     "400",
		"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n":               "400",
		"GET / HTTP/6.0\r\nHost: a\r\n\r\n":                          "505",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n":       "400",
		get + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n":       "400",
		get + "Content-Length: -1\r\n\r\n":                           "400",
		get + "Transfer-Encoding: xchunked\r\n\r\n":                  "501",
		get + "X: " + strings.Repeat("a", 40<<10) + "\r\n\r\n":       "431",
		"GET /?" + strings.Repeat("a", 40<<10) + " HTTP/1.1\r\n\r\n": "431",
		get + "X: a\x00b\r\n\r\n":                                    "400",
		get + "X : a\r\n\r\n":                                        "400",
		get + "Expect: 200-ok\r\n\r\n":                               "417",
		"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n": "404",
		"GET /v1/sync?mutationsSince=0 HTTP/1.0\r\n\r\n":             "200",
		get + "Connection: close\r\nContent-Length: 2\r\n\r\nxy":     "200",
	} {
		if got := r.speak(request); len(got) < 12 || got[9:12] != status {
			t.Errorf("%.80q: %.100q, want %s", request, got, status)
		}
	}
}

// A push that makes its resource too large is as wrong as one that is.
func TestStateOverLimit(t *testing.T) {
	r := newRig(t)
	c := r.client("")
	half := `"` + x(40000) + `"`
	head := mustPush(t, c, mutlog.Beginning, create("a", `{"a":`+half+`}`))
	r.refused(refusal{"POST", fmt.Sprintf("/v1/sync?lastMutationAt=%d", head),
		`{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"b"},{"type":"UPDATE","resource":"NOTE","resourceId":"a","data":{"b":` + half + `}}]}`,
		nil, 422, "Data must not exceed 65536 bytes at mutation[1]", `{"errors":[{"index":1,"member":"data","message":"Data must not exceed 65536 bytes at mutation[1]"}]}`})
	if got, _ := mustPull(t, c, client.Query{Since: head}); len(got) != 0 {
		t.Errorf("half of a refused batch was applied: %v", got)
	}
}
