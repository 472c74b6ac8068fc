package server_test

// The rows of the abuse list that are more than one request and its answer.

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"tidemark/auth"
	"tidemark/server"
)

// TestManyRequestsOnOneConnection sends 10,000 of them, good ones and refused ones.
func TestManyRequestsOnOneConnection(t *testing.T) {
	t.Parallel()
	x := newTarget(t)
	c := x.dial()
	defer c.Close()
	requests := []string{
		get("mutationsSince=0"), get("mutationsSince=x"), push("null"), raw("GET /livez HTTP/1.1", "Host: a"), request("PUT", "/v1/sync", goodNote),
	}
	want := []int{200, 400, 422, 200, 405}
	const n = 10_000
	go func() {
		out := bufio.NewWriter(c)
		for i := range n {
			out.WriteString(requests[i%len(requests)])
		}
		out.Flush()
	}()
	in := bufio.NewReader(c)
	for i := range n {
		res, err := http.ReadResponse(in, &http.Request{Method: "GET"})
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		io.Copy(io.Discard, res.Body)
		if res.StatusCode != want[i%len(want)] {
			t.Fatalf("request %d is answered %d, want %d", i, res.StatusCode, want[i%len(want)])
		}
	}
	hostile.Add(n)
}

// TestAnotherUsersResource: whether an id exists in the log of another user makes no difference to any answer (I12).
func TestAnotherUsersResource(t *testing.T) {
	for _, body := range []string{
		`{"mutations":[{"type":"UPDATE","resource":"NOTE","resourceId":"%s","data":{"x":1}}]}`,
		`{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"%s"}]}`,
		`{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"%s","data":{}}]}`,
	} {
		for _, base := range []string{"-1", "0", fmt.Sprint(fullHead)} {
			x := newTarget(t) // "full" has a, and the tombstone c, and nobody has q
			answers := map[string]string{}
			for _, id := range []string{"a", "c", "q"} {
				got := x.exchange(request("POST", "/v1/sync?lastMutationAt="+base, fmt.Sprintf(body, id), "X-User-Id: eve-"+id, "Idempotency-Key: k"))
				answers[id] = summary(got) + " " + strings.ReplaceAll(got[0].body, `"`+id+`"`, `"?"`)
			}
			if answers["a"] != answers["q"] || answers["c"] != answers["q"] {
				t.Errorf("the answer tells whether another user has the resource:\n%s\n%s\n%s", answers["a"], answers["c"], answers["q"])
			}
		}
	}
}

// TestKeysOfUsers: an Idempotency-Key is a matter of its user alone, a refusal uses up none, and of 50 at once one is
// applied.
func TestKeysOfUsers(t *testing.T) {
	x := newTarget(t)
	send := func(user, base string) answer {
		got := x.exchange(request("POST", "/v1/sync?lastMutationAt="+base, goodNote, "X-User-Id: "+user, "Idempotency-Key: same"))
		return got[0]
	}
	if a := send("ada", "5"); a.StatusCode != 409 {
		t.Errorf("a wrong cursor is answered %d", a.StatusCode)
	}
	first := send("ada", "-1")
	if first.StatusCode != 200 || first.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("after a refusal the same key is answered %d %s", first.StatusCode, first.body)
	}
	if a := send("bob", "-1"); a.StatusCode != 200 || a.Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("the key of another user is answered %d, replayed %q", a.StatusCode, a.Header.Get("Idempotency-Replayed"))
	}
	if a := send("ada", "5"); a.body != first.body || a.Header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the repeat is answered %d %s", a.StatusCode, a.body)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	bodies, applied := map[string]int{}, 0
	for range 50 {
		wg.Go(func() {
			a := send("eve", "-1")
			mu.Lock()
			defer mu.Unlock()
			bodies[a.body]++
			if a.Header.Get("Idempotency-Replayed") == "" {
				applied++
			}
		})
	}
	wg.Wait()
	if len(bodies) != 1 || applied != 1 {
		t.Errorf("50 at once: %d applied, answers %v", applied, bodies)
	}
}

// TestSlowClientsAreCut: what does not come in time is cut, and whoever asks meanwhile does not notice.
func TestSlowClientsAreCut(t *testing.T) {
	t.Parallel()
	const headers, whole, tolerance = 200 * time.Millisecond, 3 * time.Second, 2500 * time.Millisecond
	x := newTarget(t, func(o *server.Options) {
		o.ReadHeaderTimeout, o.ReadTimeout, o.IdleTimeout = headers, whole, whole
	})
	before := x.state()
	var wg sync.WaitGroup
	for _, c := range []struct {
		name, raw string
		patience  time.Duration
		want      string // of the answer, if there is one
	}{
		{"nothing", "", headers, ""},
		{"headers that never end", "GET / HTTP/1.1\r\nHost: a\r\nX: ", headers, ""},
		{"a body that never ends", request("POST", "/v1/sync?lastMutationAt=-1", `{"mut`, "Content-Length: 100", "X-User-Id: slow"), whole, "HTTP/1.1 400 "},
		{"chunks that never end", request("POST", "/v1/sync?lastMutationAt=-1", "5\r\n{\"mut", "Transfer-Encoding: chunked", "X-User-Id: slow"), whole, "HTTP/1.1 400 "},
		{"no second request", raw("GET /livez HTTP/1.1", "Host: a"), whole, "HTTP/1.1 200 "},
	} {
		wg.Go(func() {
			conn := x.dial()
			defer conn.Close()
			begun := time.Now()
			io.WriteString(conn, c.raw)
			x.stillGood(c.name)
			got, _ := io.ReadAll(conn)
			took := time.Since(begun)
			if took < c.patience/2 || took > c.patience+tolerance {
				t.Errorf("%s: cut after %v, want %v", c.name, took, c.patience)
			}
			if c.want != "" && !strings.HasPrefix(string(got), c.want) {
				t.Errorf("%s: answered %q", c.name, got)
			}
		})
	}
	wg.Wait()
	if x.state() != before {
		t.Error("half a request has changed the store")
	}
}

// TestF22PanicInHandler: a panic is a 500 with an id that the log explains, and the next request is answered.
func TestF22PanicInHandler(t *testing.T) {
	x := newTarget(t, func(o *server.Options) {
		o.Authenticate = func(r *http.Request) (*auth.Principal, error) {
			if r.Header.Get("X-Panic") != "" {
				_ = []string{}[len(r.Header)]
			}
			return server.OpenUser(r)
		}
	})
	c := x.dial()
	defer c.Close()
	io.WriteString(c, get("mutationsSince=0", "X-Panic: now", "X-Request-Id: look-here")+get("mutationsSince=0"))
	in := bufio.NewReader(c)
	for _, want := range []int{500, 200} {
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		if res.StatusCode != want {
			t.Errorf("answered %d %s, want %d", res.StatusCode, body, want)
		}
		if want != 500 {
			continue
		}
		if fault := envelopeFault(string(body)); fault != "" || leaks(string(body), "") != nil {
			t.Errorf("%s in %s, which tells %q", fault, body, leaks(string(body), ""))
		}
		if res.Header.Get("X-Request-Id") != "look-here" || res.Header.Get("Retry-After") == "" {
			t.Errorf("the headers are %v", res.Header)
		}
	}
	x.log.mu.Lock()
	defer x.log.mu.Unlock()
	if text := x.log.buf.String(); !strings.Contains(text, "look-here") || !strings.Contains(text, "index out of range") || !strings.Contains(text, "abuse_rows_test.go") {
		t.Errorf("the log does not tell the cause: %s", text)
	}
}

// TestF22PanicInCommit: a panic in the middle of a transaction leaves nothing of it behind, neither in the store nor
// held.
func TestF22PanicInCommit(t *testing.T) {
	broken := true
	x := newTarget(t, func(o *server.Options) {
		newID := o.Log.NewID
		o.Log.NewID = func() string {
			if broken {
				panic("no id")
			}
			return newID()
		}
	})
	const body = `{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"a"},{"type":"CREATE","resource":"NOTE","data":{}}]}`
	before := x.state()
	for range 100 {
		if got := x.panics(push(body)); !strings.HasPrefix(got, "HTTP/1.1 500 ") || leaks(got, "") != nil {
			t.Fatalf("answered %q", got)
		}
	}
	if x.state() != before {
		t.Error("a push that panicked has left something")
	}
	x.stillGood("a panic")
	broken = false
	if got := x.exchange(push(body)); summary(got) != "200" || got[0].Header.Get("Idempotency-Replayed") != "" {
		t.Errorf("the next push is answered %q", summary(got))
	}
}

// panics sends a request that makes the server panic.
func (x *target) panics(raw string) string {
	x.t.Helper()
	c := x.dial()
	defer c.Close()
	io.WriteString(c, raw)
	c.CloseWrite()
	got, err := io.ReadAll(c)
	if err != nil {
		x.t.Error(err)
	}
	return string(got)
}
