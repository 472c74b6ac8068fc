package faults_test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tidemark/mutlog"
	"tidemark/store/postgrestest"
)

// hearingAgain is how long the streams of a server may take to learn the heads
// that it missed, from when it hears its database again. The promise is 2 s; a
// machine that does something else may need more.
const hearingAgain = 15 * time.Second

// TestF33ListenCut terminates the connection through which one server hears
// another, while users push through that one: the last head of each reaches
// its streams nevertheless, and after that nothing is left to be told.
func TestF33ListenCut(t *testing.T) {
	d := newDatabase(t, postgrestest.Options{})
	writer, reader := start(t, d.direct(), options{}), start(t, d.direct(), options{})
	users := make([]*watched, size(20, 100))
	for i := range users {
		users[i] = watch(t, reader, writer, fmt.Sprint("user-", i))
	}
	listeners := func() string {
		return d.exec(t, `SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`)
	}
	await(t, "both servers to listen", func() bool { return len(strings.Fields(listeners())) == 2 })
	var slowest time.Duration
	cuts := size(5, 50)
	for range cuts {
		before := strings.Fields(listeners())
		var pushing sync.WaitGroup
		over := make(chan struct{})
		for _, u := range users {
			pushing.Go(func() { u.pushUntil(t, over) })
		}
		d.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'`)
		close(over) // so that the last of the pushes fall into the time when nobody hears
		pushing.Wait()
		await(t, "both servers to listen again", func() bool {
			now := strings.Fields(listeners())
			return len(now) == 2 && !slices.ContainsFunc(now, func(pid string) bool { return slices.Contains(before, pid) })
		})
		began := time.Now()
		for _, u := range users {
			u.awaitLast(t, began.Add(hearingAgain))
		}
		slowest = max(slowest, time.Since(began))
	}
	pushes := 0
	for _, u := range users {
		pushes += u.pushes
	}
	if pushes < cuts*len(users) {
		t.Errorf("only %d pushes", pushes)
	}
	counts(t, "the connection with which each of 2 servers listens was terminated %d times, %d streams, %d pushes; every stream has the last head %d ms after the reconnect at the latest",
		cuts, len(users), pushes, slowest.Milliseconds())
}

// watched is a user who pushes through one server and has a stream of another.
type watched struct {
	name   string
	writer *server
	pushed mutlog.Timestamp // the head of the last push
	pushes int
	told   atomic.Int64 // the last head of the stream
}

// watch opens a stream of user, which ends with the test.
func watch(t *testing.T, reader, writer *server, user string) *watched {
	t.Helper()
	u := &watched{name: user, writer: writer, pushed: mutlog.Beginning}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+reader.addr+"/v1/sync/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-User-Id", user)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusOK {
		t.Fatalf("the stream is answered %s", res.Status)
	}
	u.told.Store(int64(mutlog.Beginning))
	go func() {
		defer res.Body.Close()
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			var head int64
			if _, err := fmt.Sscanf(lines.Text(), "id: %d", &head); err == nil {
				u.told.Store(head)
			}
		}
	}()
	return u
}

// pushUntil pushes one change after another, the last one once over is closed.
func (u *watched) pushUntil(t *testing.T, over <-chan struct{}) {
	for last := false; !last && !t.Failed(); {
		select {
		case <-over:
			last = true
		default:
		}
		u.push(t)
	}
}

func (u *watched) push(t *testing.T) {
	const body = `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{}}]}`
	req, err := http.NewRequestWithContext(t.Context(), "POST", fmt.Sprintf("http://%s/v1/sync?lastMutationAt=%d", u.writer.addr, u.pushed), strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return
	}
	req.Header.Set("X-User-Id", u.name)
	req.Header.Set("Content-Type", "application/json")
	res, err := u.writer.client.Do(req)
	if err != nil {
		t.Error(err)
		return
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	if _, err := fmt.Sscan(res.Header.Get("X-Mutation-At"), &u.pushed); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("a push is answered %s", res.Status)
	}
	u.pushes++
}

// awaitLast waits until the stream has told the head of the last push.
func (u *watched) awaitLast(t *testing.T, deadline time.Time) {
	t.Helper()
	for ; u.told.Load() != int64(u.pushed); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: the stream has told %d, and the last head is %d", u.name, u.told.Load(), u.pushed)
		}
	}
}
