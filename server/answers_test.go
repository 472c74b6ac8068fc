package server_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/oklog/ulid/v2"

	"tidemark/client"
	"tidemark/mutlog"
)

// The answers of an empty log, which the issue of this server spells out.
func TestEmptyLog(t *testing.T) {
	r := newRig(t)
	for query, want := range map[string]string{
		"mutationsSince=0":                    `{"success":true,"data":{"lastMutationAt":-1,"mutations":[]}}`,
		"mutationsSince=-1":                   `{"success":true,"data":{"lastMutationAt":-1,"mutations":[]}}`,
		"mutationsSince=0&metadataOnly=true":  `{"success":true,"data":{"lastMutationAt":-1}}`,
		"mutationsSince=5&metadataOnly=true":  `{"success":true,"data":{"lastMutationAt":-1}}`,
		"mutationsSince=0&limit=5":            `{"success":true,"data":{"lastMutationAt":-1,"mutations":[],"limit":5,"hasMore":false}}`,
		"mutationsSince=0&page=1":             `{"success":true,"data":{"lastMutationAt":-1,"mutations":[],"page":1,"limit":100,"total":0,"hasMore":false}}`,
		"mutationsSince=0&history=true":       `{"success":true,"data":{"lastMutationAt":-1,"mutations":[]}}`,
		"mutationsSince=0&resources=NOTE,TAG": `{"success":true,"data":{"lastMutationAt":-1,"mutations":[]}}`,
	} {
		got := r.get(query)
		if got.StatusCode != 200 || got.body != want+"\n" || got.Header.Get("X-Mutation-At") != "-1" || got.Header.Get("Etag") != `W/"-1"` {
			t.Errorf("%s: %d %v %s", query, got.StatusCode, got.Header, got.body)
		}
	}
	if got := r.post("lastMutationAt=0", `{"mutations":[]}`); got.StatusCode != 409 {
		t.Errorf("an empty push on 0: %d", got.StatusCode)
	}
	got := r.post("lastMutationAt=-1", `{"mutations":[]}`)
	if want := `{"success":true,"data":{"lastMutationAt":-1,"mutations":[]}}` + "\n"; got.StatusCode != 200 || got.body != want {
		t.Errorf("an empty push on -1: %d %s", got.StatusCode, got.body)
	}
	head, err := r.client("").Head(context.Background())
	if head != mutlog.Beginning || err != nil {
		t.Errorf("Head: %v %v", head, err)
	}
}

// Data comes back byte for byte.
func TestExactData(t *testing.T) {
	r := newRig(t)
	r.http.Transport = manners{t, http.DefaultTransport} // white space in data is no matter of the document
	c := r.client("")
	data := []string{
		`{"int":9007199254740993,"frac":1.10,"exp":1E400,"neg":-0.0}`,
		`{ "space" : [ 1 , 2 ] , "z":1,"a":2 }`,
		`{"escapes":"\u00e9\/\"\\\b\u2028\ud83d\ude00","raw":"é😀/` + "\u2028\u202e\u0065\u0301" + `"}`,
		`{"<&>":"<script>&amp;</script>","":"","__proto__":{"constructor":1},"$ne":null,"'; DROP":0}`,
		`{}`,
	}
	var batch []mutlog.Mutation
	for i, d := range data {
		batch = append(batch, create("é "+strconv.Itoa(i)+`"\/`, d))
	}
	pushed, err := c.Push(context.Background(), client.Push{Base: mutlog.Beginning, Mutations: batch})
	if err != nil {
		t.Fatal(err)
	}
	for i := range batch {
		batch[i].Timestamp = start + mutlog.Timestamp(i)
	}
	if diff := cmp.Diff(batch, pushed.Mutations); diff != "" {
		t.Errorf("pushed (-want +got):\n%s", diff)
	}
	for _, q := range []client.Query{{Since: mutlog.Beginning}, {Since: 0}, {Since: 0, History: true}, {Since: 0, PageSize: 1}} {
		var got []mutlog.Mutation
		for m, err := range c.Pull(context.Background(), q).All() {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, m)
		}
		if diff := cmp.Diff(batch, got); diff != "" {
			t.Errorf("%+v (-want +got):\n%s", q, diff)
		}
	}
}

// A cursor is one number in any spelling, and no float has touched it.
func TestCursorSpellings(t *testing.T) {
	r := newRig(t)
	head := mustPush(t, r.client(""), mutlog.Beginning, create("a", `{}`))
	for _, spelling := range []string{"1700000000000", "1700000000000.0", "1.7e12", "17E11", "1.700000000000000e%2B12", "17000000000000e-1"} {
		got := r.post("lastMutationAt="+spelling, fmt.Sprintf(`{"mutations":[{"type":"UPDATE","resource":"NOTE","resourceId":"a","data":{"s":%q}}]}`, spelling))
		if got.StatusCode != 200 && spelling == "1700000000000" {
			t.Errorf("%s: %d %s", spelling, got.StatusCode, got.body)
		}
		// From the second on it is stale, and the answer tells as which number it was read.
		if want := fmt.Sprintf(`"clientLastMutationAt":%d,`, head); spelling != "1700000000000" && !strings.Contains(got.body, want) {
			t.Errorf("%s: %d %s", spelling, got.StatusCode, got.body)
		}
		if got := r.get("mutationsSince=" + spelling); got.StatusCode != 200 || strings.Count(got.body, `"type"`) != 1 {
			t.Errorf("%s: %d %s", spelling, got.StatusCode, got.body)
		}
	}
}

// X-Request-Id is the client's own if that is fit to be repeated, else a ULID.
func TestRequestID(t *testing.T) {
	r := newRig(t)
	for _, own := range []string{"a", "a b~", strings.Repeat("x", 128), "01JBX0M8Z3"} {
		for _, uri := range []string{"/livez", "/x", "/v1/sync", "/v1/sync?mutationsSince=0"} {
			if got := r.send("GET", uri, "", "X-Request-Id: "+own).Header.Get("X-Request-Id"); got != own {
				t.Errorf("%s, %q: %q", uri, own, got)
			}
		}
	}
	seen := map[string]bool{}
	for _, headers := range [][]string{nil, {"X-Request-Id:"}, {"X-Request-Id: é"}, {"X-Request-Id: " + strings.Repeat("x", 129)}, {"X-Request-Id: a", "X-Request-Id: b"}} {
		res, err := http.DefaultTransport.RoundTrip(&http.Request{Method: "GET", URL: must(url.Parse(r.url + "/livez")), Header: headerOf(headers)})
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		got := res.Header.Get("X-Request-Id")
		if _, err := ulid.ParseStrict(got); err != nil || seen[got] {
			t.Errorf("%.60q: %q, want a new ULID", headers, got)
		}
		seen[got] = true
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func headerOf(lines []string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		h.Add(name, strings.TrimPrefix(value, " "))
	}
	return h
}

func TestETag(t *testing.T) {
	r := newRig(t)
	head := mustPush(t, r.client(""), mutlog.Beginning, create("a", `{}`))
	tag := fmt.Sprintf(`W/"%d"`, head)
	for _, query := range []string{"mutationsSince=0", "mutationsSince=-1", "mutationsSince=0&metadataOnly=true", "mutationsSince=0&limit=1", "mutationsSince=0&page=1", "mutationsSince=0&history=true"} {
		if got := r.get(query); got.Header.Get("Etag") != tag || got.Header.Get("X-Mutation-At") != head.String() {
			t.Errorf("%s: %v", query, got.Header)
		}
		for _, match := range []string{tag, fmt.Sprintf(`"%d"`, head), "*", `"x", ` + tag, `W/"1",` + tag + `,"y"`} {
			got := r.get(query, "If-None-Match: "+match)
			if got.StatusCode != 304 || got.body != "" || got.Header.Get("Etag") != tag || got.Header.Get("X-Mutation-At") != head.String() {
				t.Errorf("%s, If-None-Match %s: %d %v %q", query, match, got.StatusCode, got.Header, got.body)
			}
		}
		for _, match := range []string{`W/"1"`, head.String(), `W/"` + (head + 1).String() + `"`, "x"} {
			if got := r.get(query, "If-None-Match: "+match); got.StatusCode != 200 {
				t.Errorf("%s, If-None-Match %s: %d", query, match, got.StatusCode)
			}
		}
	}
	// A refusal is one whatever the client holds, and a push looks at its cursor alone.
	if got := r.get("mutationsSince=9007199254740991", "If-None-Match: *"); got.StatusCode != 409 {
		t.Errorf("a cursor ahead: %d", got.StatusCode)
	}
	for _, precondition := range []string{"If-None-Match: " + tag, "If-Match: W/\"1\"", "If-None-Match: *"} {
		if got := r.post("lastMutationAt="+head.String(), `{"mutations":[]}`, precondition); got.StatusCode != 200 {
			t.Errorf("a push with %s: %d", precondition, got.StatusCode)
		}
	}
	mustPush(t, r.client(""), head, remove("a"))
	if got := r.get("mutationsSince=0", "If-None-Match: "+tag); got.StatusCode != 200 {
		t.Errorf("after a push: %d", got.StatusCode)
	}
}

func TestPrefer(t *testing.T) {
	r := newRig(t)
	const (
		full    = `{"success":true,"data":{"lastMutationAt":1700000000000,"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"n":1},"timestamp":1700000000000}]}}` + "\n"
		minimal = `{"success":true,"data":{"lastMutationAt":1700000000000,"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a","timestamp":1700000000000}]}}` + "\n"
	)
	for prefer, want := range map[string]string{
		"return=minimal": minimal, "return=representation": full, "": full, "return": full, "minimal": full, "respond-async": full,
		"RETURN=Minimal": minimal, `return="minimal"`: minimal, "return = minimal": minimal, "respond-async, return=minimal; x=y": minimal,
		"return=representation, return=minimal": full, "return=minimal,return=representation": minimal, "xreturn=minimal": full,
	} {
		got := r.post("lastMutationAt=-1", good, "Prefer: "+prefer) // a replay, but for the first
		if got.StatusCode != 200 || got.body != want {
			t.Errorf("Prefer: %s: %d %s", prefer, got.StatusCode, got.body)
		}
		applied := ""
		if want == minimal {
			applied = "return=minimal"
		}
		if got.Header.Get("Preference-Applied") != applied {
			t.Errorf("Prefer: %s: Preference-Applied %q, want %q", prefer, got.Header.Get("Preference-Applied"), applied)
		}
	}
	if got := r.get("mutationsSince=0", "Prefer: return=minimal"); got.Header.Get("Preference-Applied") != "" || !strings.Contains(got.body, `"data":{"n":1}`) {
		t.Errorf("a pull with Prefer: %v %s", got.Header, got.body)
	}
	// Changes of others are what the device does not have: they keep their data.
	got := r.post("lastMutationAt=-1&merge=true", `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"b","data":{"n":2}}]}`, "Prefer: return=minimal")
	const merged = `{"success":true,"data":{"lastMutationAt":1700000000001,"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"b","timestamp":1700000000001}],` +
		`"changes":[{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"n":1},"timestamp":1700000000000}]}}` + "\n"
	if got.body != merged {
		t.Errorf("a minimal merge:\n%s", cmp.Diff(merged, got.body))
	}
}

func TestProblemJSON(t *testing.T) {
	r := newRig(t)
	for accept, want := range map[string]bool{
		"application/problem+json": true, "application/json, application/problem+json": true, "application/problem+json;q=0.5": true,
		"application/problem+json; q=0": false, "application/json": false, "*/*": false, "": false, "image/png": false, "application/*": false,
		"Application/Problem+JSON": true,
	} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			got := r.send(method, "/v1/sync?lastMutationAt=x&mutationsSince=x", "{}", "Accept: "+accept)
			plain := r.send(method, "/v1/sync?lastMutationAt=x&mutationsSince=x", "{}")
			if is := got.Header.Get("Content-Type") == "application/problem+json"; is != want || got.StatusCode != plain.StatusCode {
				t.Errorf("%s, Accept: %s: %d %s", method, accept, got.StatusCode, got.Header.Get("Content-Type"))
			}
		}
	}
	if got := r.get("mutationsSince=0", "Accept: application/problem+json"); got.StatusCode != 200 || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("a success: %d %s", got.StatusCode, got.Header.Get("Content-Type"))
	}
	// The same facts, one for one.
	mustPush(t, r.client(""), mutlog.Beginning, create("a", `{"é":"<b>"}`))
	for _, body := range []string{good, `{"mutations":[{"type":"<\u0001&>"}]}`} {
		var plain struct {
			Type, Message string
			Error         struct {
				Code, Message string
				Details       json.RawMessage
			}
		}
		var problem struct {
			Type, Title, Detail, Code string
			Status                    int
			Details                   json.RawMessage
		}
		a := r.post("lastMutationAt=5", body)
		b := r.post("lastMutationAt=5", body, "Accept: application/problem+json")
		if err := json.Unmarshal([]byte(a.body), &plain); err != nil {
			t.Fatalf("%v: %s", err, a.body)
		}
		if err := json.Unmarshal([]byte(b.body), &problem); err != nil {
			t.Fatalf("%v: %s", err, b.body)
		}
		if problem.Type != "urn:tidemark:problem:"+plain.Error.Code || problem.Title != plain.Type || problem.Status != a.StatusCode ||
			problem.Detail != plain.Message || problem.Code != plain.Error.Code || !bytes.Equal(problem.Details, plain.Error.Details) || plain.Message != plain.Error.Message {
			t.Errorf("%s and %s differ", a.body, b.body)
		}
	}
}

// Compressed answers are the same answers.
func TestCompression(t *testing.T) {
	r := newRig(t)
	c := r.client("")
	var batch []mutlog.Mutation
	for i := range 100 {
		batch = append(batch, create(strconv.Itoa(i), fmt.Sprintf(`{"text":%q,"n":%d}`, strings.Repeat("tide ", 70), i)))
	}
	head := mustPush(t, c, mutlog.Beginning, batch...)
	r.http.Transport = manners{t, http.DefaultTransport} // the document has been held to such answers elsewhere
	decoders := map[string]func(string) (string, error){
		"": func(s string) (string, error) { return s, nil },
		"gzip": func(s string) (string, error) {
			z, err := gzip.NewReader(strings.NewReader(s))
			if err != nil {
				return "", err
			}
			b, err := io.ReadAll(z)
			return string(b), err
		},
		"zstd": func(s string) (string, error) {
			z, err := zstd.NewReader(strings.NewReader(s))
			if err != nil {
				return "", err
			}
			defer z.Close()
			b, err := io.ReadAll(z)
			return string(b), err
		},
	}
	for _, uri := range []string{"/v1/sync?mutationsSince=0", "/v1/sync?mutationsSince=0&limit=20", "/v1/sync?mutationsSince=0&metadataOnly=true", "/openapi.yaml",
		fmt.Sprintf("/v1/sync?mutationsSince=%d", head), "/v1/sync?mutationsSince=x"} {
		plain := r.send("GET", uri, "", "Accept-Encoding: identity")
		large := len(plain.body) >= 1024
		for accept, encoding := range map[string]string{"gzip": "gzip", "zstd": "zstd", "gzip, deflate, br": "gzip", "identity": "", "": "", "br": "",
			"gzip;q=0": "", "zstd;q=0, gzip": "gzip"} {
			if !large {
				encoding = ""
			}
			got := r.send("GET", uri, "", "Accept-Encoding: "+accept)
			if got.Header.Get("Content-Encoding") != encoding || got.StatusCode != plain.StatusCode || got.Header.Get("X-Mutation-At") != plain.Header.Get("X-Mutation-At") {
				t.Errorf("%s, Accept-Encoding %q: %d %v", uri, accept, got.StatusCode, got.Header)
				continue
			}
			if body, err := decoders[encoding](got.body); err != nil || body != plain.body {
				t.Errorf("%s, Accept-Encoding %q: another body (%v)", uri, accept, err)
			}
			if !slices.Contains(got.Header["Vary"], "Accept-Encoding") {
				t.Errorf("%s, Accept-Encoding %q: Vary %q", uri, accept, got.Header["Vary"])
			}
		}
	}
}

func TestPages(t *testing.T) {
	r := newRig(t)
	const html, text = "text/html; charset=UTF-8", "text/plain; charset=utf-8"
	for accept, want := range map[string]string{"": text, "*/*": text, "text/html,application/xhtml+xml,*/*;q=0.8": html, "application/json": text} {
		got := r.send("GET", "/", "", "Accept: "+accept)
		if !strings.EqualFold(got.Header.Get("Content-Type"), want) || !strings.Contains(got.body, r.url+"/v1/sync") || !strings.Contains(got.body, "/openapi.yaml") {
			t.Errorf("/ with Accept %q: %v %s", accept, got.Header, got.body)
		}
		if !slices.Contains(got.Header["Vary"], "Accept") {
			t.Errorf("/ with Accept %q: Vary %q", accept, got.Header["Vary"])
		}
	}
	// What a client says of its host must not become a part of the page.
	request := must(http.NewRequest("GET", r.url+"/", nil))
	request.Host, request.Header = `x"><script>`, http.Header{"Accept": {"text/html"}}
	if res, err := r.http.Do(request); err == nil {
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if bytes.Contains(body, []byte("<script>")) {
			t.Errorf("the page holds what came as Host: %s", body)
		}
	}
	for _, uri := range []string{"/", "/openapi.yaml", "/livez"} {
		get, head := r.send("GET", uri, "", "Accept-Encoding: identity"), r.send("HEAD", uri, "", "Accept-Encoding: identity")
		if get.StatusCode != 200 || head.StatusCode != 200 || head.body != "" || get.body == "" || head.Header.Get("Content-Type") != get.Header.Get("Content-Type") {
			t.Errorf("%s: GET %d, HEAD %d %q", uri, get.StatusCode, head.StatusCode, head.body)
		}
	}
}
