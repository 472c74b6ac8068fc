package server_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tidemark"
	"tidemark/auth"
	"tidemark/client"
	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store/storetest"
)

// start is the time at which a rig's clock stands, and so the timestamp of the
// first mutation of each log.
const start mutlog.Timestamp = 1_700_000_000_000

// rig is a server under test as serve runs it: on a real listener, on a real
// store, with a clock that stands still.
type rig struct {
	t     testing.TB
	url   string
	addr  string
	store *tripwire
	rules *mutlog.Log // what the server asks
	log   *lines
	http  *http.Client
	stop  func() // makes the server drain
}

// newRig starts a server; change may alter its options.
func newRig(t testing.TB, change ...func(*server.Options)) *rig {
	t.Helper()
	return newRigOn(t, storetest.Open(t), change...)
}

// newRigOn starts a server on an empty store, which it closes.
func newRigOn(t testing.TB, logs mutlog.Store, change ...func(*server.Options)) *rig {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, addr: l.Addr().String(), url: "http://" + l.Addr().String(), store: &tripwire{Store: logs}, log: &lines{}}
	r.store.mend()
	r.rules = mutlog.New(r.store, mutlog.DefaultLimits)
	r.rules.Now = func() time.Time { return time.UnixMilli(int64(start)) }
	options := server.Options{
		Log:          r.rules,
		Limits:       mutlog.DefaultLimits,
		MaxBodyBytes: 1 << 20,
		OpenAPI:      tidemark.OpenAPI,
		Logger:       slog.New(slog.NewJSONHandler(r.log, nil)),
		AllowedHosts: []string{"x"},
	}
	authority, err := auth.NewAuthority(context.Background(), r.store, nil, options.Logger)
	if err != nil {
		t.Fatal(err)
	}
	options.Tickets = authority
	for _, f := range change {
		f(&options)
	}
	if options.Limits.Quota != (mutlog.Count{}) {
		now := r.rules.Now
		*r.rules = *mutlog.New(r.store, options.Limits)
		r.rules.Now = now
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	served := make(chan error, 1)
	go func() { served <- server.New(options).Serve(ctx, l) }()
	connections := &http.Transport{}
	r.http = &http.Client{
		Transport:     transport(t, connections),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		connections.CloseIdleConnections()
		stop()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if n := r.store.open.Load(); n != 0 {
			t.Errorf("%d transactions are still open", n)
		}
		r.store.mend()
		problem := func(p string) { t.Errorf("check: %s", p) }
		if err := mutlog.Check(context.Background(), logs, problem); err != nil {
			t.Errorf("check: %v", err)
		}
		if err := logs.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r
}

// transport is what every exchange of these tests goes through, but for those
// that speak to a connection of their own.
func transport(t testing.TB, next http.RoundTripper) http.RoundTripper {
	return manners{t, contractTransport{t: t, next: next}}
}

// manners checks what holds for every answer, whatever the request.
type manners struct {
	t    testing.TB
	next http.RoundTripper
}

func (m manners) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := m.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	fail := func(format string, args ...any) {
		m.t.Errorf("%s %.100s, answered %d: %s", r.Method, r.URL.RequestURI(), res.StatusCode, fmt.Sprintf(format, args...))
	}
	want := map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
	if res.StatusCode >= 400 {
		want["X-Mutation-At"], want["Etag"], want["Idempotency-Replayed"], want["Preference-Applied"] = "", "", "", ""
	}
	if id := r.Header.Get("X-Request-Id"); id != "" && len(id) <= 128 {
		want["X-Request-Id"] = id
	}
	for name, value := range want {
		if got := strings.Join(res.Header[name], " and "); got != value {
			fail("%s: %q, want %q", name, got, value)
		}
	}
	if res.Header.Get("X-Request-Id") == "" {
		fail("no X-Request-Id")
	}
	return res, nil
}

// client returns a client of the server, for the user if there is one.
func (r *rig) client(user mutlog.User, options ...client.Option) *client.Client {
	r.t.Helper()
	options = append([]client.Option{client.WithHTTPClient(r.http)}, options...)
	if user != "" {
		options = append(options, client.WithUser(user))
	}
	c, err := client.New(r.url, options...)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// newClient returns a client of a new server.
func newClient(t testing.TB) *client.Client { return newRig(t).client("") }

// answer is what a server has sent.
type answer struct {
	*http.Response
	body string
}

// send makes a request that a client would not: headers are "Name: value", and
// a body is said to be JSON unless a Content-Type is given.
func (r *rig) send(method, uri, body string, headers ...string) answer {
	r.t.Helper()
	request, err := http.NewRequest(method, r.url+uri, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if body != "" {
		request.Header["Content-Type"] = []string{"application/json"}
	}
	for _, h := range headers {
		if strings.HasPrefix(h, "Content-Type:") {
			delete(request.Header, "Content-Type")
		}
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		if name = http.CanonicalHeaderKey(name); h != "Content-Type:" { // which only leaves it out
			request.Header[name] = append(request.Header[name], strings.TrimPrefix(value, " "))
		}
	}
	res, err := r.http.Do(request)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, uri, err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatalf("%s %s: %v", method, uri, err)
	}
	return answer{res, string(got)}
}

func (r *rig) get(query string, headers ...string) answer {
	r.t.Helper()
	return r.send("GET", "/v1/sync?"+query, "", headers...)
}

func (r *rig) post(query, body string, headers ...string) answer {
	r.t.Helper()
	return r.send("POST", "/v1/sync?"+query, body, headers...)
}

// speak sends text over a connection of its own and returns all that comes
// back until the server closes it.
func (r *rig) speak(text string) string {
	r.t.Helper()
	c := r.dial()
	defer c.Close()
	go io.WriteString(c, text) // the server may answer and close before it has read all
	got, _ := io.ReadAll(c)    // a reset after an answer is no matter
	return string(got)
}

func (r *rig) dial() *net.TCPConn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(time.Minute)) // a test that hangs says where
	return c.(*net.TCPConn)
}

// tripwire is a real store that counts its views and can be made to fail.
type tripwire struct {
	mutlog.Store
	open  atomic.Int64 // views under way
	views atomic.Int64 // views begun since mend
	good  atomic.Int64 // views that succeed, from mend on
	trip  func() error // what happens to others
}

// mend makes the store work again.
func (w *tripwire) mend() { w.breakAfter(1<<40, nil) }

// breakAfter lets n more views succeed.
func (w *tripwire) breakAfter(n int, trip func() error) {
	w.trip = trip
	w.views.Store(0)
	w.good.Store(int64(n))
}

func (w *tripwire) View(ctx context.Context, user mutlog.User, fn func(mutlog.Reader) error) error {
	if w.views.Add(1) > w.good.Load() {
		return w.trip()
	}
	w.open.Add(1)
	defer w.open.Add(-1)
	return w.Store.View(ctx, user, fn)
}

// lines keeps what a server logs.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// take returns what has been logged since the last take, as text and decoded.
// A line follows the answer, so it waits for as many as are wanted.
func (l *lines) take(t testing.TB, want int) (text string, decoded []map[string]any) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		l.mu.Lock()
		if n := bytes.Count(l.buf.Bytes(), []byte{'\n'}); n >= want || time.Now().After(deadline) {
			break
		}
		l.mu.Unlock()
	}
	text = l.buf.String()
	l.buf.Reset()
	l.mu.Unlock()
	for scanner := bufio.NewScanner(strings.NewReader(text)); scanner.Scan(); {
		var line map[string]any
		if err := json.Unmarshal(scanner.Bytes(), &line); err != nil {
			t.Errorf("a line of the log is no JSON: %s", scanner.Text())
		}
		decoded = append(decoded, line)
	}
	if len(decoded) != want {
		t.Errorf("%d lines in the log, want %d:\n%s", len(decoded), want, text)
	}
	return text, decoded
}

// Mutations, and pushes of them, in few words.

func create(id, data string) mutlog.Mutation {
	return mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", ResourceID: id, Data: []byte(data)}
}

func update(id, data string) mutlog.Mutation {
	return mutlog.Mutation{Type: mutlog.Update, Resource: "NOTE", ResourceID: id, Data: []byte(data)}
}

func remove(id string) mutlog.Mutation {
	return mutlog.Mutation{Type: mutlog.Delete, Resource: "NOTE", ResourceID: id}
}

// mustPush pushes mutations on base and returns the new head.
func mustPush(t testing.TB, c *client.Client, base mutlog.Timestamp, mutations ...mutlog.Mutation) mutlog.Timestamp {
	t.Helper()
	pushed, err := c.Push(context.Background(), client.Push{Base: base, Mutations: mutations})
	if err != nil {
		t.Fatal(err)
	}
	return pushed.Head
}

// mustPull returns what a pull gives, each as "CREATE a {…} @2": relative to
// start, to be short.
func mustPull(t testing.TB, c *client.Client, q client.Query) (changes []string, head mutlog.Timestamp) {
	t.Helper()
	pull := c.Pull(context.Background(), q)
	changes = []string{}
	for m, err := range pull.All() {
		if err != nil {
			t.Fatal(err)
		}
		changes = append(changes, inShort(m))
	}
	head, ok := pull.Head()
	if !ok {
		t.Fatal("a pull that has ended tells no head")
	}
	return changes, head
}

func inShort(m mutlog.Mutation) string {
	s := string(m.Type) + " " + m.ResourceID
	if m.Data != nil {
		s += " " + string(m.Data)
	}
	return fmt.Sprintf("%s @%d", s, m.Timestamp-start)
}

func allInShort(list []mutlog.Mutation) []string {
	short := make([]string, len(list))
	for i, m := range list {
		short[i] = inShort(m)
	}
	return short
}

// envelope returns the body of an error as the protocol draws it.
func envelope(kind, code, message, details string) string {
	m, _ := json.Marshal(message)
	text := unescapeHTML.Replace(string(m))
	return fmt.Sprintf(`{"success":false,"type":%q,"message":%s,"error":{"code":%q,"message":%s,"details":%s}}`+"\n",
		kind, text, code, text, cmp.Or(details, "{}"))
}

// unescapeHTML undoes what encoding/json does beyond JSON.
var unescapeHTML = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&")
