package server_test

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"tidemark/auth"
	"tidemark/client"
	"tidemark/mutlog"
	"tidemark/server"
)

// A panic is one 500 with the id under which the log has its cause, and nothing
// of that cause; the next request is none the worse.
func TestPanic(t *testing.T) {
	r := newRig(t, func(o *server.Options) {
		o.Authenticate = func(r *http.Request) (*auth.Principal, error) {
			if r.Header.Get("X-User-Id") == "bug" {
				panic("the secret of a handler")
			}
			return server.OpenUser(r)
		}
	})
	const message = "The server failed; the log of it has the cause under the X-Request-Id of this answer"
	for _, method := range []string{"GET", "POST"} {
		r.refused(refusal{method, "/v1/sync?mutationsSince=0&lastMutationAt=-1", good, []string{"X-User-Id: bug", "X-Request-Id: my-id"}, 500, message, ""})
		text, lines := r.log.take(t, 2)
		if lines[0]["msg"] != "panic" || lines[0]["request"] != "my-id" || !strings.Contains(text, "the secret of a handler") || !strings.Contains(text, "frame_test.go") {
			t.Errorf("the log does not say what happened: %s", text)
		}
		if lines[1]["msg"] != "request" || lines[1]["status"] != 500.0 || lines[1]["level"] != slog.LevelError.String() {
			t.Errorf("the line of the request: %v", lines[1])
		}
		if got := r.send(method, "/v1/sync?mutationsSince=0&lastMutationAt=-1", good); got.StatusCode != 200 {
			t.Errorf("the request after a panic: %d %s", got.StatusCode, got.body)
		}
		r.log.take(t, 1)
	}
	// In a transaction, too; newRig checks that none stays open.
	r.store.breakAfter(0, func() error { panic("in a view") })
	r.refused(refusal{"GET", "/v1/sync?mutationsSince=0", "", nil, 500, message, ""})
	r.store.mend()
	r.unchanged(start)
}

// What the server cannot do is a 5xx that tells the client to come again and
// the log why, and no more.
func TestStoreFails(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		err     error
		status  int
		message string
	}{
		{mutlog.ErrUnavailable, 503, "The server cannot do this now, please try again"},
		{mutlog.ErrOutcomeUnknown, 503, "The server cannot do this now, please try again"},
		{mutlog.ErrCorrupt, 500, "The server failed; the log of it has the cause under the X-Request-Id of this answer"},
		{mutlog.ErrLogFull, 500, "The server failed; the log of it has the cause under the X-Request-Id of this answer"},
		{io.ErrUnexpectedEOF, 500, "The server failed; the log of it has the cause under the X-Request-Id of this answer"},
	} {
		r.store.breakAfter(0, func() error { return fmt.Errorf("/var/lib/secret.db: %w", c.err) })
		for _, query := range []string{"mutationsSince=0", "mutationsSince=0&metadataOnly=true", "mutationsSince=-1&limit=1", "mutationsSince=0&page=1", "mutationsSince=0&history=true"} {
			r.refused(refusal{"GET", "/v1/sync?" + query, "", nil, c.status, c.message, ""})
			if text, lines := r.log.take(t, 1); lines[0]["error"] != "/var/lib/secret.db: "+c.err.Error() {
				t.Errorf("the log does not tell the cause: %s", text)
			}
		}
		if got := r.get("mutationsSince=0"); got.Header.Get("Retry-After") == "" {
			t.Errorf("%d without Retry-After", got.StatusCode)
		}
		r.log.take(t, 1)
	}
}

// A pull that finds nothing for a while has told its head in a header before it
// fails, and nothing else: then it is a refusal like any other, without the head.
func TestStoreFailsBeforeFirstChange(t *testing.T) {
	r := newRig(t)
	r.fill(50, 60000)
	r.store.breakAfter(1, func() error { return mutlog.ErrUnavailable })
	r.refused(refusal{"GET", "/v1/sync?mutationsSince=0&resources=NOBODY", "", nil, 503, "The server cannot do this now, please try again", ""})
}

// One line for each request, and nothing in any that somebody has sent as data
// or as a credential.
func TestLog(t *testing.T) {
	r := newRig(t)
	const secret = "s3cr3t"
	data := `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"s3cr3t-id","data":{"password":"s3cr3t"}}]}`
	n := 0
	for _, headers := range [][]string{
		{"Authorization: Bearer s3cr3t", "x-auth-token: s3cr3t", "Idempotency-Key: s3cr3t", "Cookie: s3cr3t", "x-client-id: s3cr3t", "If-None-Match: s3cr3t"},
		{"Authorization: Basic s3cr3t", "Idempotency-Key: s3cr3t\ts3cr3t"},
	} {
		for _, c := range []struct{ method, query, body string }{
			{"POST", "lastMutationAt=-1&access_token=s3cr3t", data},
			{"POST", "lastMutationAt=-1", data},
			{"POST", "lastMutationAt=5", data},
			{"POST", "lastMutationAt=-1", strings.Replace(data, "CREATE", "s3cr3t", 1)},
			{"POST", "lastMutationAt=-1", strings.Replace(data, "NOTE", "s3cr3t", 1)},
			{"POST", "lastMutationAt=-1", data[:len(data)-10] + `"s3cr3t`},
			{"POST", "lastMutationAt=s3cr3t", data},
			{"GET", "mutationsSince=0", ""},
			{"GET", "mutationsSince=0&resources=s3cr3t", ""},
			{"GET", "s3cr3t;s3cr3t", ""},
			{"PUT", "s3cr3t", data},
		} {
			r.send(c.method, "/v1/sync?"+c.query, c.body, headers...)
			n++
		}
	}
	r.store.breakAfter(0, func() error { return mutlog.ErrCorrupt })
	r.post("lastMutationAt=-1", data)
	r.get("mutationsSince=0", "Authorization: Bearer s3cr3t")
	text, lines := r.log.take(t, n+2)
	if strings.Contains(text, secret) {
		t.Errorf("the log holds what it must not:\n%s", text)
	}
	for _, line := range lines {
		for _, name := range []string{"time", "level", "msg", "method", "path", "status", "bytes", "took", "request"} {
			if _, ok := line[name]; !ok {
				t.Errorf("a line without %s: %v", name, line)
			}
		}
	}
	// What a client says cannot make a line of its own.
	r.store.mend()
	r.send("GET", "/x%0a%22}%0d{%22msg%22:%22forged%22}", "", "X-Request-Id: \"}{\"msg\":\"forged\"}", "User-Agent: a")
	if text, lines := r.log.take(t, 1); lines[0]["msg"] != "request" {
		t.Errorf("forged: %s", text)
	}
}

// The line of a request counts what was sent, and names the user.
func TestLogLine(t *testing.T) {
	r := newRig(t)
	got := r.send("GET", "/v1/sync?mutationsSince=0", "", "X-User-Id: jane", "X-Request-Id: id")
	_, lines := r.log.take(t, 1)
	for name, want := range map[string]any{"method": "GET", "path": "/v1/sync", "status": 200.0, "bytes": float64(len(got.body)), "user": "jane", "request": "id", "level": "INFO"} {
		if lines[0][name] != want {
			t.Errorf("%s is %v, want %v", name, lines[0][name], want)
		}
	}
	r.send("GET", "/v1/sync", "")
	if _, lines := r.log.take(t, 1); lines[0]["level"] != "INFO" || lines[0]["status"] != 400.0 {
		t.Errorf("a refusal: %v", lines[0])
	}
}

// Serve ends when it is told to, after what is under way; newRig checks that it
// ends at all.
func TestDrain(t *testing.T) {
	entered, leave := make(chan bool), make(chan bool)
	r := newRig(t, func(o *server.Options) {
		o.Authenticate = func(r *http.Request) (*auth.Principal, error) {
			if r.Header.Get("X-User-Id") == "slow" {
				close(entered)
				<-leave
			}
			return server.OpenUser(r)
		}
	})
	answered := make(chan error, 1)
	slow := r.client("slow")
	go func() {
		_, err := slow.Push(ctx, client.Push{Base: mutlog.Beginning, Mutations: []mutlog.Mutation{create("a", `{}`)}})
		answered <- err
	}()
	<-entered
	r.stop()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if c, err := net.Dial("tcp", r.addr); err != nil {
			break
		} else if c.Close(); time.Now().After(deadline) {
			t.Fatal("a server that drains still listens")
		}
	}
	close(leave)
	if err := <-answered; err != nil {
		t.Errorf("the push that was under way: %v", err)
	}
}
