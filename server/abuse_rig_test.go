package server_test

// What the tests of hostile input share: a server on a real listener and a real store, requests written byte by byte
// over raw TCP, and what holds for every answer, whatever the request was.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tidemark"
	"tidemark/mutlog"
	"tidemark/openapitest"
	"tidemark/server"
	"tidemark/store/storetest"
)

var long = flag.Bool("long", false, "send the nightly number of hostile requests")

// target is a server that is sent what no client would send.
type target struct {
	t    testing.TB
	addr string
	logs mutlog.Store
	log  *lines
	sent atomic.Int64 // requests
	full atomic.Bool  // it may answer that it has too much to do
}

// newTarget starts a server of which the user "full" has a log of three notes.
func newTarget(t testing.TB, change ...func(*server.Options)) *target {
	t.Helper()
	logs := storetest.Open(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x := &target{t: t, addr: l.Addr().String(), logs: logs, log: &lines{}}
	log := mutlog.New(logs, mutlog.DefaultLimits)
	log.Now = func() time.Time { return time.UnixMilli(int64(start)) }
	options := server.Options{
		Log:          log,
		Limits:       mutlog.DefaultLimits,
		MaxBodyBytes: 1 << 20,
		OpenAPI:      tidemark.OpenAPI,
		Logger:       slog.New(slog.NewJSONHandler(x.log, nil)),
		ReadTimeout:  5 * time.Second,
		AllowedHosts: []string{"tidemark", "a"},
	}
	for _, f := range change {
		f(&options)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- server.New(options).Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := mutlog.Check(context.Background(), logs, func(p string) { t.Errorf("check: %s", p) }); err != nil {
			t.Errorf("check: %v", err)
		}
		if err := logs.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	x.mustPush("full", "-1", `{"mutations":[`+
		`{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"text":"one"}},`+
		`{"type":"CREATE","resource":"NOTE","resourceId":"b","data":{"text":"two"}},`+
		`{"type":"DELETE","resource":"NOTE","resourceId":"c"}]}`)
	return x
}

// fullHead is the head of the user "full".
const fullHead = start + 2

// goodNote is a push of one note.
const goodNote = `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"n","data":{"text":"good"}}]}`

func (x *target) mustPush(user, base, body string) {
	x.t.Helper()
	got := x.exchange(request("POST", "/v1/sync?lastMutationAt="+base, body, "X-User-Id: "+user))
	if len(got) != 1 || got[0].StatusCode != 200 {
		x.t.Fatalf("a good push was answered %v", got)
	}
}

// request writes a request, which ends its connection. A body is said to be JSON and to be as long as it is, unless the
// headers, "Name: value", say something else.
func request(method, uri, body string, headers ...string) string {
	has := func(name string) bool {
		return slices.ContainsFunc(headers, func(h string) bool { return len(h) > len(name) && strings.EqualFold(h[:len(name)], name) })
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\n", method, uri)
	if !has("Host:") {
		b.WriteString("Host: tidemark\r\n")
	}
	if body != "" && !has("Content-Type:") {
		b.WriteString("Content-Type: application/json\r\n")
	}
	if body != "" && !has("Content-Length:") && !has("Transfer-Encoding:") {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.String()
}

// chunked is a body in chunks of n bytes.
func chunked(body string, n int) string {
	var b strings.Builder
	for chunk := range slices.Chunk([]byte(body), n) {
		fmt.Fprintf(&b, "%x\r\n%s\r\n", len(chunk), chunk)
	}
	return b.String() + "0\r\n\r\n"
}

func (x *target) dial() *net.TCPConn {
	x.t.Helper()
	c, err := net.Dial("tcp", x.addr)
	if err != nil {
		x.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// spaced is data with white space.
const spaced = "{ \"z\" : 1 ,\t\"a\":[ ] }"

// exchange sends raw over a connection of its own, says that there is no more to come, and returns every answer,
// each of which has been checked. Interim answers (1xx) are left out.
func (x *target) exchange(raw string) []answer {
	x.t.Helper()
	c := x.dial()
	defer c.Close()
	go func() {
		io.WriteString(c, raw) // the server may answer and close before it has read all
		c.CloseWrite()
	}()
	x.sent.Add(1)
	return x.answers(c, raw)
}

// answers reads and checks all that comes back for raw until the server closes the connection.
func (x *target) answers(c net.Conn, raw string) (got []answer) {
	x.t.Helper()
	in := bufio.NewReader(c)
	method, _, _ := strings.Cut(raw, " ")
	for {
		if _, err := in.Peek(1); err != nil {
			if err, ok := err.(net.Error); ok && err.Timeout() {
				x.t.Errorf("%.200q: the connection hangs", raw)
			}
			return got
		}
		if method == "HEAD" {
			start, _ := in.Peek(len("HTTP/1.1 400"))
			for _, status := range transportRefusals {
				if string(start) == fmt.Sprint("HTTP/1.1 ", status) {
					method = "GET" // net/http has not read that far, so its answer has a body
				}
			}
		}
		res, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			x.t.Errorf("%.200q: the answer is not HTTP: %v", raw, err)
			return got
		}
		body, err := io.ReadAll(res.Body)
		if err != nil && !slices.Contains(transportRefusals, res.StatusCode) { // which may end in a reset
			x.t.Errorf("%.200q: half an answer: %v", raw, err)
		}
		method = "GET" // what follows in one connection
		if res.StatusCode < 200 {
			continue
		}
		a := answer{res, string(body)}
		x.decent(raw, a, len(got) == 0)
		got = append(got, a)
	}
}

// transportRefusals are the answers that net/http gives by itself, as plain text.
var transportRefusals = []int{400, 408, 414, 417, 431, 501, 505}

// decent checks what holds for every answer: no fault of the server, the headers, the envelope, no word about its
// inside, and for the first answer to a request that can be read as one, openapi.yaml.
func (x *target) decent(raw string, a answer, first bool) {
	x.t.Helper()
	fail := func(format string, args ...any) {
		x.t.Helper()
		x.t.Errorf("%.300q\nanswered %d %.300q: %s", raw, a.StatusCode, a.body, fmt.Sprintf(format, args...))
	}
	if a.StatusCode >= 500 && !(a.StatusCode == 503 && x.full.Load()) && !slices.Contains(transportRefusals, a.StatusCode) {
		fail("a client brought about a %d", a.StatusCode)
	}
	for _, leak := range leaks(a.body, raw) {
		fail("it tells of the inside: %q", leak)
	}
	for name, values := range a.Header {
		for _, leak := range leaks(strings.Join(values, "\n"), raw) {
			fail("header %s tells of the inside: %q", name, leak)
		}
		switch name {
		case "Server", "X-Powered-By", "Set-Cookie":
			fail("it has the header %s", name)
		}
		if strings.HasPrefix(name, "Access-Control-") {
			fail("it lets scripts of other sites in: %s", name)
		}
	}
	if contentType := a.Header.Get("Content-Type"); (contentType == "" || strings.HasPrefix(contentType, "text/plain")) && slices.Contains(transportRefusals, a.StatusCode) {
		if !a.Close {
			fail("net/http refused it and kept the connection")
		}
		return
	}
	for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"} {
		if got := strings.Join(a.Header[name], " and "); got != want {
			fail("%s: %q, want %q", name, got, want)
		}
	}
	if len(a.Header["X-Request-Id"]) != 1 {
		fail("X-Request-Id: %q", a.Header["X-Request-Id"])
	}
	if a.StatusCode >= 400 && a.body != "" { // answers to HEAD have none
		if fault := envelopeFault(a.body); fault != "" && a.Header.Get("Content-Type") == "application/json" {
			fail("%s", fault)
		}
	}
	if !first {
		return
	}
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
	if err != nil {
		return
	}
	for _, list := range []string{"If-None-Match", "Accept-Encoding", "Prefer", "X-Request-Id"} {
		if len(req.Header[list]) > 1 {
			return // lists may come in parts, and any X-Request-Id does; openapi.yaml cannot say so
		}
	}
	if body, err := io.ReadAll(req.Body); err == nil && len(body) < 256<<10 { // it takes long
		if !strings.HasPrefix(req.RequestURI, "/v1/") {
			return // in absolute form, a proxy's request; or it has no parameters, so that the query does not matter
		}
		var compact bytes.Buffer
		if json.Compact(&compact, body) == nil && compact.Len() != len(body) {
			return // data is given back as it came; the rest of an answer has no white space
		}
		checkAnswer(x.t, req, body, a.Response, []byte(a.body))
	}
}

// envelopeFault tells what is wrong with the body of an error.
func envelopeFault(body string) string {
	var e struct {
		Success *bool
		Type    string
		Message string
		Error   struct {
			Code    string
			Message string
			Details map[string]any
		}
	}
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return "no envelope: " + err.Error()
	}
	switch {
	case e.Success == nil || *e.Success, e.Type == "", e.Error.Code == "", e.Error.Details == nil:
		return "the envelope is not complete"
	case e.Message != e.Error.Message || e.Message == "":
		return "two messages"
	case !strings.HasSuffix(body, "}}\n"):
		return "there is something behind the envelope"
	}
	return ""
}

// inside is what an answer must not tell: names of Go types and functions, paths of files, stacks, SQL, addresses in
// memory. A pattern is only looked for in what holds its hint, in whatever case: all of them at once take milliseconds.
var inside = append(slices.Concat(
	leaksOf(`\b%s\.\(?\*?[A-Za-z]\w*`, "%s.", "mutlog server store client echo http json jsontext jsonwire bolt bbolt strconv url net io errors fmt "+
		"runtime main reflect syscall os fs context tls textproto bufio bytes time sync atomic slog ulid"),
	leaksOf(`\btidemark/%s\b`, "tidemark/%s", "mutlog server store client cmd faults bench"),
	leaksOf(`(?:^|[^\w.])/%s/[\w./-]*`, "/%s/", "work root home tmp usr var etc proc src"),
	leaksOf(`%s`, "%s", "github.com/ golang.org/ go.etcd.io/"),
	leaksOf(`\b%s\b`, "%s", "panic EOF"),
	leaksOf(`(?i:\b%s\b)`, "%s", "SQLSTATE pgx"),
), []leak{
	{"*", regexp.MustCompile(`\*[a-z]+\.[A-Z]\w+`)},
	{".go", regexp.MustCompile(`[\w/.-]+\.go\b(?::\d+)?`)},
	{".db", regexp.MustCompile(`\.db\b`)},
	{"goroutine ", regexp.MustCompile(`goroutine \d+`)},
	{"runtime error", regexp.MustCompile(`runtime error`)},
	{"invalid memory", regexp.MustCompile(`invalid memory`)},
	{"nil pointer", regexp.MustCompile(`nil pointer`)},
	{"<nil>", regexp.MustCompile(`<nil>`)},
	{"%!", regexp.MustCompile(`%!\w?\(`)},
	{"0x", regexp.MustCompile(`0x[0-9a-f]{6,}`)},
	{"select", regexp.MustCompile(`(?i:\bselect\b.*\bfrom\b)`)},
	{"insert into", regexp.MustCompile(`(?i:\binsert into\b)`)},
	{"delete from", regexp.MustCompile(`(?i:\bdelete from\b)`)},
	{"drop table", regexp.MustCompile(`(?i:\bdrop table\b)`)},
	{"pq:", regexp.MustCompile(`(?i:\bpq:)`)},
	{"i/o timeout", regexp.MustCompile(`\bi/o timeout\b`)},
	{"broken pipe", regexp.MustCompile(`\bbroken pipe\b`)},
	{"connection reset", regexp.MustCompile(`\bconnection reset\b`)},
	{"no such file", regexp.MustCompile(`\bno such file\b`)},
	{"permission denied", regexp.MustCompile(`\bpermission denied\b`)},
}...)

// leak is one thing that an answer must not tell: hint, in lower case, is in all that pattern matches.
type leak struct {
	hint    string
	pattern *regexp.Regexp
}

// leaksOf makes a leak of each of the words.
func leaksOf(pattern, hint, words string) (leaks []leak) {
	for word := range strings.FieldsSeq(words) {
		leaks = append(leaks, leak{strings.ToLower(fmt.Sprintf(hint, word)), regexp.MustCompile(fmt.Sprintf(pattern, regexp.QuoteMeta(word)))})
	}
	return leaks
}

// leaks returns what text tells of the inside and its reader has not said first.
func leaks(text, request string) (found []string) {
	text = squeezed(text)
	lower := strings.ToLower(text)
	for _, l := range inside {
		if !strings.Contains(lower, l.hint) {
			continue
		}
		for _, leak := range l.pattern.FindAllString(text, -1) {
			if !strings.Contains(request, strings.TrimSpace(leak)) && !strings.Contains(request, strings.ReplaceAll(leak, `"`, "")) {
				found = append(found, leak)
			}
		}
	}
	return found
}

// squeezed is text without most of its long runs of one byte: they tell nothing, and searching them takes seconds.
func squeezed(text string) string {
	var b strings.Builder
	run := 0
	for i := range len(text) {
		if run++; i > 0 && text[i] != text[i-1] {
			run = 0
		}
		if run < 64 {
			b.WriteByte(text[i])
		}
	}
	return b.String()
}

// checkLeaks fails the test if an answer tells of the inside; every test that goes through a contractTransport has it.
func checkLeaks(t testing.TB, req *http.Request, reqBody []byte, res *http.Response, resBody []byte) {
	t.Helper()
	var said, told strings.Builder
	fmt.Fprintf(&said, "%s %s\n", req.Method, req.RequestURI)
	req.Header.Write(&said)
	said.Write(reqBody)
	res.Header.Write(&told)
	body, _ := openapitest.Decoded(res.Header.Get("Content-Encoding"), resBody)
	told.Write(body)
	for _, leak := range leaks(told.String(), said.String()) {
		t.Errorf("%s %.200s, answered %d, tells of the inside: %q", req.Method, req.URL.RequestURI(), res.StatusCode, leak)
	}
}

// state is a fingerprint of all logs: every batch of every user, with all that makes it one.
func (x *target) state() string {
	x.t.Helper()
	h := sha256.New()
	ctx := context.Background()
	var users []mutlog.User
	err := x.logs.Users(ctx, func(user mutlog.User) error {
		users = append(users, user)
		return nil
	})
	slices.Sort(users)
	for _, user := range users {
		if err != nil {
			break
		}
		err = x.logs.View(ctx, user, func(tx mutlog.Reader) error {
			head, err := tx.Head()
			fmt.Fprintf(h, "user %q head %d\n", user, head)
			for after := mutlog.Beginning; err == nil && after < head; {
				var batches []*mutlog.Batch
				batches, err = tx.Batches(after, 1000)
				for _, b := range batches {
					fmt.Fprintf(h, "batch %d %d %q %q\n", b.Base, b.Previous, b.Client, b.Key)
					for _, e := range b.Entries {
						fmt.Fprintf(h, "%s %s %d %d\n", e.AppendJSON(nil), e.State, e.Prev, e.Born)
					}
					after = b.Head()
				}
			}
			return err
		})
	}
	if err != nil {
		x.t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// stillGood fails the test unless the server answers a good request on a new connection.
func (x *target) stillGood(after string) {
	x.t.Helper()
	c := x.dial()
	defer c.Close()
	io.WriteString(c, "GET /v1/sync?mutationsSince=0&metadataOnly=true HTTP/1.1\r\nHost: tidemark\r\nX-User-Id: full\r\nConnection: close\r\n\r\n")
	got, _ := io.ReadAll(c)
	if !bytes.HasPrefix(got, []byte("HTTP/1.1 200 ")) || !bytes.Contains(got, fmt.Appendf(nil, `{"lastMutationAt":%d}`, fullHead)) {
		x.t.Errorf("after %.200q a good request is answered %q", after, got)
	}
}

// TestLeaksAreFound: what the answers are searched for is found where it is, unless the request has said it.
func TestLeaksAreFound(t *testing.T) {
	for text, want := range map[string]string{
		"cannot decode into mutlog.Mutation":     "mutlog.Mutation",
		"invalid value *jsontext.SyntacticError": "*jsontext.SyntacticError",
		"at log.go:12":                           "log.go:12",
		`open "/root/x"`:                         `"/root/x`,
		"tidemark/server: no":                    "tidemark/server",
		"in github.com/a":                        "github.com/",
		"panic: it":                              "panic",
		"unexpected EOF":                         "EOF",
		"my.db":                                  ".db",
		"goroutine 12 [":                         "goroutine 12",
		"at 0xc000123456":                        "0xc000123456",
		"ERROR: SELECT a\tFROM b":                "SELECT a\tFROM",
		"ERROR (sqlstate 42P01)":                 "sqlstate",
		"%!d(string=x)":                          "%!d(",
	} {
		if found := leaks(text, ""); !slices.Contains(found, want) {
			t.Errorf("in %q there is %q, found were %q", text, want, found)
		}
		if found := leaks(text, "whoever said "+text); found != nil {
			t.Errorf("what the request has said is found in %q: %q", text, found)
		}
	}
	if found := leaks(`{"text":"a selection of panics: EOFs, 0x12, panicked, store, updb"}`, ""); found != nil {
		t.Errorf("found %q", found)
	}
}
