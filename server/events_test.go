package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"tidemark/auth"
	"tidemark/client"
	"tidemark/mutlog"
	"tidemark/server"
)

// follower reads a stream as a device does.
type follower struct {
	t        testing.TB
	response *http.Response
	lines    *bufio.Reader
	retries  []int // milliseconds, as the server has told them
	comments int
}

// follow opens a stream. It fails the test if there is none.
func (r *rig) follow(headers ...string) *follower {
	r.t.Helper()
	f, res := r.tryFollow(headers...)
	if f == nil {
		r.t.Fatalf("a stream is answered %d %s", res.StatusCode, res.body)
	}
	return f
}

// tryFollow opens a stream, or returns what was answered instead.
func (r *rig) tryFollow(headers ...string) (*follower, answer) {
	r.t.Helper()
	return r.followAt("/v1/sync/events", headers...)
}

func (r *rig) followAt(uri string, headers ...string) (*follower, answer) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // a test that hangs says where
	r.t.Cleanup(cancel)
	request, err := http.NewRequestWithContext(ctx, "GET", r.url+uri, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		request.Header.Add(name, value)
	}
	plain := r.http.Transport.(manners).next.(contractTransport).next // the others read to the end first
	res, err := manners{r.t, plain}.RoundTrip(request)
	if err != nil {
		r.t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return nil, answer{res, string(body)}
	}
	r.t.Cleanup(func() { res.Body.Close() })
	return &follower{t: r.t, response: res, lines: bufio.NewReader(res.Body)}, answer{}
}

// begin is send for a stream, which it ends after the first event. The body says
// what that was.
func (r *rig) begin(_, uri, _ string, headers ...string) answer {
	r.t.Helper()
	f, _ := r.followAt(uri, headers...)
	if f == nil {
		return r.send("GET", uri, "", headers...) // so that the refusal is compared with the document
	}
	defer f.response.Body.Close()
	head, ok := f.next()
	return answer{f.response, fmt.Sprintln("head", head, ok)}
}

// next returns the head of the next event; ok is false at the end of the stream.
func (f *follower) next() (head mutlog.Timestamp, ok bool) {
	f.t.Helper()
	event := regexp.MustCompile(`^event: head\nid: (-?[0-9]+)\ndata: \{"lastMutationAt": (-?[0-9]+)\}\n$`)
	for {
		block, err := f.block()
		if errors.Is(err, context.DeadlineExceeded) {
			f.t.Fatal("the stream neither ends nor says anything")
		}
		if err != nil {
			return 0, false
		}
		if retry, is := strings.CutPrefix(block, "retry: "); is {
			ms, err := strconv.Atoi(strings.TrimSuffix(retry, "\n"))
			if err != nil {
				f.t.Fatalf("the stream says %q", block)
			}
			f.retries = append(f.retries, ms)
			continue
		}
		if block == ":\n" {
			f.comments++
			continue
		}
		m := event.FindStringSubmatch(block)
		if m == nil || m[1] != m[2] {
			f.t.Fatalf("the stream says %q", block)
		}
		n, _ := strconv.ParseInt(m[1], 10, 64)
		return mutlog.Timestamp(n), true
	}
}

// block returns the lines up to an empty one.
func (f *follower) block() (string, error) {
	var b strings.Builder
	for {
		line, err := f.lines.ReadString('\n')
		if err != nil || line == "\n" {
			return b.String(), err
		}
		b.WriteString(line)
	}
}

// mustNext fails the test unless the next event is of head.
func (f *follower) mustNext(head mutlog.Timestamp) {
	f.t.Helper()
	if got, ok := f.next(); !ok || got != head {
		f.t.Fatalf("the next event is of %d (%v), want %d", got, ok, head)
	}
}

// mustEnd fails the test unless the stream ends without another event.
func (f *follower) mustEnd() {
	f.t.Helper()
	if head, ok := f.next(); ok {
		f.t.Fatalf("an event of %d where the stream should end", head)
	}
}

// reach reads events up to the one of head, and fails the test if they do not
// increase or the stream ends before.
func (f *follower) reach(head mutlog.Timestamp) (events int) {
	f.t.Helper()
	last := mutlog.Beginning - 1
	for {
		got, ok := f.next()
		if !ok || got <= last || got > head {
			f.t.Fatalf("an event of %d (%v) after %d, on the way to %d", got, ok, last, head)
		}
		if events++; got == head {
			return events
		}
		last = got
	}
}

// TestStreamTellsHeads: a stream tells the head at once and at each change, to
// the user whose log it is and to nobody else.
func TestStreamTellsHeads(t *testing.T) {
	r := newRig(t)
	anna, ben := r.client("anna"), r.client("ben")
	ofAnna, ofBen := r.follow("X-User-Id: anna"), r.follow("X-User-Id: ben")
	ofAnna.mustNext(mutlog.Beginning)
	ofBen.mustNext(mutlog.Beginning)

	head := mustPush(t, anna, mutlog.Beginning, create("a", "{}"))
	ofAnna.mustNext(head)
	again := r.follow("X-User-Id: anna", "Last-Event-ID: -1")
	again.mustNext(head)
	next := mustPush(t, anna, head, update("a", `{"n":1}`))
	ofAnna.mustNext(next)
	again.mustNext(next)
	ofBen.mustNext(mustPush(t, ben, mutlog.Beginning, create("a", "{}"), create("b", "{}"), create("c", "{}")))

	h := ofAnna.response.Header
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "X-Accel-Buffering": "no", "Content-Encoding": "", "Content-Length": ""} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if len(ofAnna.retries) != 1 || ofAnna.retries[0] < 1000 || ofAnna.retries[0] >= 3000 {
		t.Errorf("a client is told to come back after %v ms", ofAnna.retries)
	}
}

// TestStreamOverTLS: the same over TLS, with HTTP/1.1 and, among other requests
// on one connection, HTTP/2.
func TestStreamOverTLS(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			r := newTLSRig(t, version, func(o *server.Options) { o.MaxStreams = 1 })
			c := r.client("anna")
			f := r.follow("X-User-Id: anna", "Accept-Encoding: gzip")
			f.mustNext(mutlog.Beginning)
			if f.response.ProtoMajor != version || f.response.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s %v", f.response.Proto, f.response.Header)
			}
			head := mutlog.Beginning
			for i := range 3 {
				head = mustPush(t, c, head, create(fmt.Sprint(i), "{}"))
				f.mustNext(head)
			}
			f.response.Body.Close()
			var again *follower
			within(t, "the room of a client that has gone", func() bool {
				again, _ = r.tryFollow("X-User-Id: anna")
				return again != nil
			})
			again.mustNext(head)
			r.stop()
			again.mustEnd()
			if len(again.retries) != 2 {
				t.Errorf("told to come back after %v ms", again.retries)
			}
		})
	}
}

// TestStreamIsCoalesced: many pushes become few events, and the last one is told.
func TestStreamIsCoalesced(t *testing.T) {
	r := newRig(t)
	c := r.client("")
	f := r.follow()
	head := mutlog.Beginning
	begun := time.Now()
	for i := range 300 {
		head = mustPush(t, c, head, create(fmt.Sprint(i), "{}"))
	}
	took := time.Since(begun)
	most := int(took/(250*time.Millisecond)) + 3 // the one at once, the one after the last push, and one for rounding
	if n := f.reach(head); n > most {
		t.Errorf("%d events for 300 pushes in %s, want at most %d", n, took, most)
	}
}

// TestStreamLimits: streams and waits of one user are bounded, and those of all.
func TestStreamLimits(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.MaxStreamsPerUser, o.MaxStreams = 2, 3 })
	first := r.follow("X-User-Id: anna")
	r.follow("X-User-Id: anna")
	_, refused := r.tryFollow("X-User-Id: anna")
	if refused.StatusCode != 429 || refused.Header.Get("Retry-After") == "" || !strings.Contains(refused.body, `"RateLimitError"`) {
		t.Errorf("one stream too many of a user: %d %v %s", refused.StatusCode, refused.Header, refused.body)
	}
	if wait := r.get("mutationsSince=-1&wait=60", "X-User-Id: anna"); wait.StatusCode != 429 {
		t.Errorf("a wait beside too many streams: %d %s", wait.StatusCode, wait.body)
	}
	if plain := r.get("mutationsSince=-1", "X-User-Id: anna"); plain.StatusCode != 200 {
		t.Errorf("a pull beside too many streams: %d %s", plain.StatusCode, plain.body)
	}
	r.follow("X-User-Id: ben")
	if _, full := r.tryFollow("X-User-Id: ben"); full.StatusCode != 503 || full.Header.Get("Retry-After") == "" {
		t.Errorf("one stream too many of all: %d %v %s", full.StatusCode, full.Header, full.body)
	}
	first.response.Body.Close() // a client that goes away makes room
	within(t, "the room of a client that has gone", func() bool {
		f, _ := r.tryFollow("X-User-Id: anna")
		return f != nil
	})
}

// TestStreamsOfOneUser: of a thousand that one user opens the first are served, and the user's requests, too.
func TestStreamsOfOneUser(t *testing.T) {
	const most, tries = 16, 1000
	r := newRig(t, func(o *server.Options) { o.MaxStreamsPerUser = most })
	served := 0
	for i := range tries {
		f, refused := r.tryFollow("X-User-Id: anna")
		switch {
		case f != nil:
			served++
		case refused.StatusCode != 429 || refused.Header.Get("Retry-After") == "":
			t.Fatalf("stream %d: %d %s", i, refused.StatusCode, refused.body)
		}
	}
	if served != most {
		t.Errorf("%d of %d streams are served, want %d", served, tries, most)
	}
	for _, user := range []string{"anna", "ben"} {
		if a := r.get("mutationsSince=-1", "X-User-Id: "+user); a.StatusCode != 200 {
			t.Errorf("a pull of %s: %d %s", user, a.StatusCode, a.body)
		}
	}
}

// within fails the test unless what becomes true soon.
func within(t testing.TB, name string, what func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !what(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", name)
		}
	}
}

// TestStreamsAreNoConnections: streams leave room for connections that make
// requests, however many there are.
func TestStreamsAreNoConnections(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.MaxConnections = 2 })
	for i := range 10 {
		r.follow(fmt.Sprint("X-User-Id: ", i)).mustNext(mutlog.Beginning)
	}
	if a := r.get("mutationsSince=-1"); a.StatusCode != 200 {
		t.Errorf("a pull beside ten streams: %d %s", a.StatusCode, a.body)
	}
}

// TestStreamEndsWithToken: a stream ends when its credential expires or is
// revoked, and a wait is answered 401.
func TestStreamEndsWithToken(t *testing.T) {
	for name, lapse := range map[string]func(*auth.Principal) func(){
		"expires": func(who *auth.Principal) func() {
			who.Expires = time.Now().Add(300 * time.Millisecond)
			return func() {}
		},
		"revoked": func(who *auth.Principal) func() {
			done := make(chan struct{})
			who.Done = done
			return func() { close(done) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			who := &auth.Principal{User: "anna", Method: auth.Token, Scopes: []string{auth.ScopeRead}}
			end := lapse(who)
			r := newRig(t, func(o *server.Options) {
				o.Authenticate = func(*http.Request) (*auth.Principal, error) { return who, nil }
			})
			f := r.follow()
			f.mustNext(mutlog.Beginning)
			waited := make(chan answer)
			go func() {
				waited <- r.get("mutationsSince=-1&wait=60")
			}()
			time.Sleep(100 * time.Millisecond) // for the wait to begin; if it has not, it must end all the same
			end()
			f.mustEnd()
			if a := <-waited; a.StatusCode != 401 {
				t.Errorf("a wait whose token ends: %d %s", a.StatusCode, a.body)
			}
		})
	}
}

// TestClosingEndsWhatIsOpen: the first token ends the streams and the waits that
// were begun without one.
func TestClosingEndsWhatIsOpen(t *testing.T) {
	g := newGuardedWith(t, nil, func(o *server.Options) { o.MaxStreamsPerUser = 2 })
	f := g.follow()
	f.mustNext(mutlog.Beginning)
	waited := make(chan answer)
	go func() {
		a := g.get("mutationsSince=-1&wait=15")
		for a.StatusCode == 429 { // the test looks whether there is room left
			a = g.get("mutationsSince=-1&wait=15")
		}
		waited <- a
	}()
	within(t, "the wait to begin", g.isOneTooMany)
	g.token("anna", auth.ScopeSync)
	f.mustEnd()
	if a := <-waited; a.StatusCode != 401 {
		t.Errorf("a wait without a token: %d %s", a.StatusCode, a.body)
	}
}

// TestTicket: a ticket stands for the token in one request for a stream, and for
// nothing else; the stream ends with the token; and no log has the ticket.
func TestTicket(t *testing.T) {
	g := newGuarded(t, false)
	token, id := g.token("anna", auth.ScopeRead)
	ticket := func() string {
		t.Helper()
		a := g.send("POST", "/v1/sync/events/ticket", "", "x-auth-token: "+token)
		text := regexp.MustCompile(`tmt_[-_A-Za-z0-9]{43}`).FindString(a.body)
		if a.StatusCode != 200 || text == "" {
			t.Fatalf("%d %s", a.StatusCode, a.body)
		}
		return text
	}
	first := ticket()
	f, refused := g.followAt("/v1/sync/events?ticket=" + first)
	if f == nil {
		t.Fatalf("a stream with a ticket: %d %s", refused.StatusCode, refused.body)
	}
	f.mustNext(mutlog.Beginning)
	for uri, status := range map[string]int{
		"/v1/sync/events?ticket=" + first:                        401, // used
		"/v1/sync/events?ticket=tmt_guessed":                     401,
		"/v1/sync/events?ticket=":                                400,
		"/v1/sync/events?ticket=a&ticket=b":                      400,
		"/v1/sync/events?ticket=" + token:                        401,
		"/v1/sync?mutationsSince=-1&ticket=" + ticket():          401,
		"/v1/sync/limits?ticket=" + ticket():                     401,
		"/v1/sync/events?access_token=" + ticket() + "&ticket=b": 401,
	} {
		if a := g.send("GET", uri, ""); a.StatusCode != status {
			t.Errorf("%s: %d %s, want %d", uri, a.StatusCode, a.body, status)
		}
	}
	if err := g.authority.Revoke(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	f.mustEnd()
	g.noSecretsLogged()
}

// TestStreamsEndAtShutdown: the clients of streams hear that the server goes,
// and when to come back; waits are answered; and none holds up the end.
func TestStreamsEndAtShutdown(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.MaxStreamsPerUser = 50 })
	var streams []*follower
	for range 40 {
		f := r.follow()
		f.mustNext(mutlog.Beginning)
		streams = append(streams, f)
	}
	waited := make(chan answer)
	go func() { waited <- r.get("mutationsSince=-1&wait=60") }()
	time.Sleep(100 * time.Millisecond)
	r.stop()
	different := map[int]bool{}
	for _, f := range streams {
		f.mustEnd()
		retry := f.retries[len(f.retries)-1]
		if len(f.retries) != 2 || retry < 1000 || retry >= 6000 {
			t.Errorf("a client is told to come back after %v ms", f.retries)
		}
		different[retry] = true
	}
	if len(different) < 20 {
		t.Errorf("40 clients are to come back at %d different times", len(different))
	}
	if a := <-waited; a.StatusCode != 200 {
		t.Errorf("a wait at the shutdown: %d %s", a.StatusCode, a.body)
	}
}

// TestStreamFitsDocument: a stream to its end, and the refusals of one too many,
// are as openapi.yaml says.
func TestStreamFitsDocument(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *server.Options) {
		o.MaxStreamsPerUser = 1
		o.Authenticate = func(*http.Request) (*auth.Principal, error) {
			return &auth.Principal{User: "anna", Method: auth.Open, Expires: time.Now().Add(2 * time.Second)}, nil
		}
	})
	f := r.follow()
	for _, accept := range []string{"Accept: application/problem+json", "Accept: text/event-stream"} {
		if a := r.send("GET", "/v1/sync/events", "", accept); a.StatusCode != 429 {
			t.Errorf("a second stream: %d %s", a.StatusCode, a.body)
		}
	}
	f.mustNext(mutlog.Beginning)
	f.mustEnd()
	within(t, "a whole stream", func() bool {
		a := r.send("GET", "/v1/sync/events", "", "Last-Event-ID: 1769340915573")
		return a.StatusCode == 200 && strings.Contains(a.body, "id: -1\n")
	})
}

// TestWait: a pull that has nothing to answer waits for something.
func TestWait(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	c := r.client("")
	head := mustPush(t, c, mutlog.Beginning, create("a", "{}"))

	t.Run("something is there", func(t *testing.T) {
		for _, query := range []string{"mutationsSince=-1", "mutationsSince=0", fmt.Sprint("mutationsSince=", head-1)} {
			if a := r.get(query + "&wait=60"); a.StatusCode != 200 || !strings.Contains(a.body, `"CREATE"`) {
				t.Errorf("%s: %d %s", query, a.StatusCode, a.body)
			}
		}
	})
	t.Run("the cursor is none of this log", func(t *testing.T) {
		if a := r.get(fmt.Sprint("wait=60&mutationsSince=", head+1)); a.StatusCode != 409 {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		if a := r.get("wait=60&mutationsSince=5", "X-User-Id: nobody"); a.StatusCode != 409 {
			t.Errorf("of an empty log: %d %s", a.StatusCode, a.body)
		}
	})
	t.Run("the time passes", func(t *testing.T) {
		begun := time.Now()
		if a := r.get(fmt.Sprint("wait=1&mutationsSince=", head)); a.StatusCode != 200 || !strings.Contains(a.body, `"mutations":[]`) {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		if a := r.get(fmt.Sprint("wait=1&mutationsSince=", head), fmt.Sprintf(`If-None-Match: W/"%d"`, head)); a.StatusCode != 304 {
			t.Errorf("with If-None-Match: %d %s", a.StatusCode, a.body)
		}
		if took := time.Since(begun); took < 2*time.Second {
			t.Errorf("two waits of a second took %s", took)
		}
	})
	t.Run("something comes", func(t *testing.T) {
		for _, user := range []mutlog.User{"", "new"} {
			base, header := head, "Accept: */*"
			if user != "" {
				base, header = mutlog.Beginning, "X-User-Id: new"
			}
			waited := make(chan answer)
			go func() { waited <- r.get(fmt.Sprint("wait=60&history=true&mutationsSince=", base), header) }()
			time.Sleep(100 * time.Millisecond)
			mustPush(t, r.client(user), base, create("b", "{}"))
			if a := <-waited; a.StatusCode != 200 || !strings.Contains(a.body, `"resourceId":"b"`) {
				t.Errorf("%d %s", a.StatusCode, a.body)
			}
		}
	})
	t.Run("contradictions", func(t *testing.T) {
		a := r.get("wait=5&metadataOnly=true&mutationsSince=0")
		if a.StatusCode != 422 || !strings.Contains(a.body, "The parameters wait and metadataOnly contradict each other") {
			t.Errorf("%d %s", a.StatusCode, a.body)
		}
		for query, status := range map[string]int{"wait=0": 422, "wait=61": 422, "wait=1.5": 422, "wait=": 400, "wait=soon": 400, "wait=1&wait=1": 400} {
			if a := r.get("mutationsSince=-1&" + query); a.StatusCode != status {
				t.Errorf("%s: %d %s", query, a.StatusCode, a.body)
			}
		}
	})
}

// TestWaitOutlastsTheRequest: the time that a client has to send a request does
// not end a wait that is longer.
func TestWaitOutlastsTheRequest(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.ReadTimeout = 200 * time.Millisecond })
	waited := make(chan answer)
	go func() { waited <- r.get("wait=60&mutationsSince=-1") }()
	time.Sleep(time.Second)
	mustPush(t, r.client("", client.WithClientID("another")), mutlog.Beginning, create("a", "{}"))
	if a := <-waited; !strings.Contains(a.body, `"CREATE"`) {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// TestWaitsHoldNoMemory: waits of a client that goes away end, and while they
// last they hold none of the memory that other pulls need.
func TestWaitsHoldNoMemory(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.MaxMemory, o.MaxBodyBytes, o.MaxStreamsPerUser = 6<<20, 1<<20, 8 })
	for range 8 {
		r.wait()
	}
	within(t, "eight waits", func() bool { return r.isOneTooMany() || r.wait() == nil })
	if a := r.get("mutationsSince=-1"); a.StatusCode != 200 {
		t.Errorf("a pull beside eight waits: %d %s", a.StatusCode, a.body)
	}
	// A database's followers are told to look for themselves now and then.
	within(t, "waits hold no transactions", func() bool { return r.store.open.Load() == 0 })
}

// wait begins a pull that waits, and does not read the answer.
func (r *rig) wait() net.Conn {
	c := r.dial()
	r.t.Cleanup(func() { c.Close() })
	io.WriteString(c, "GET /v1/sync?mutationsSince=-1&wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n")
	return c
}

// isOneTooMany tells whether another wait is refused. If it is not, it takes the
// place of one for a second.
func (r *rig) isOneTooMany() bool { return r.get("mutationsSince=-1&wait=1").StatusCode == 429 }

// TestWaitOfClientGone: a wait ends with its client.
func TestWaitOfClientGone(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.MaxStreamsPerUser = 1 })
	var waits []net.Conn
	within(t, "the wait", func() bool { waits = append(waits, r.wait()); return r.isOneTooMany() })
	for _, c := range waits {
		c.Close()
	}
	within(t, "the end of the wait", func() bool { return !r.isOneTooMany() })
}
