package load_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"tidemark/bench/load"
	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store"
)

// serve starts a server on an empty store, behind wrap, and returns its address.
func serve(t *testing.T, wrap func(http.Handler) http.Handler) (*url.URL, store.Store) {
	t.Helper()
	s, err := store.OpenBolt(filepath.Join(t.TempDir(), "load.db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	h := httptest.NewServer(wrap(server.New(server.Options{
		Log: mutlog.New(s, mutlog.DefaultLimits), Limits: mutlog.DefaultLimits, MaxBodyBytes: 1 << 20,
		Logger: slog.New(slog.DiscardHandler),
	})))
	t.Cleanup(h.Close)
	u, err := url.Parse(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u, s
}

func mixed(u *url.URL) load.Sync {
	return load.Sync{
		URL: u, Users: 20, Connections: 4, Batch: 5, MutationBytes: 250, UserPrefix: "user-", Fresh: true, Seed: 1,
		Updates: 0.2, Deletes: 0.05, Pulls: 0.1, Polls: 0.1, Stale: 0.1, Retries: 0.1,
	}
}

// TestSync puts every kind of load on a real server, which must answer each
// request as the cursors say, and looks into the store afterwards.
func TestSync(t *testing.T) {
	u, s := serve(t, func(h http.Handler) http.Handler { return h })
	sync := mixed(u)
	if err := sync.Try(t.Context()); err != nil {
		t.Fatal(err)
	}
	const requests = 2000
	r := load.Run(t.Context(), load.Options{URL: u, Requests: requests}, sync.Devices())
	if r.Requests != requests || r.ErrorCount != 0 {
		t.Errorf("%d of %d requests answered as they should be; errors: %v", r.Requests, requests, r.Errors)
	}
	for kind, share := range map[load.Kind]float64{load.Push: 0.6, load.Pull: 0.1, load.Poll: 0.1, load.Stale: 0.1, load.Retry: 0.1} {
		if got := float64(r.Kinds[kind.String()].Requests) / requests; got < share-0.05 || got > share+0.05 {
			t.Errorf("%.2f of the requests were a %s, want about %.2f", got, kind, share)
		}
	}
	pushed := int(r.Kinds[load.Push.String()].Requests) * sync.Batch
	if got := mutations(t, s); got != pushed {
		t.Errorf("the store holds %d mutations, %d were pushed", got, pushed)
	}
	if size := r.Pushed / int64(pushed); size < 220 || size > 255 {
		t.Errorf("a mutation has %d bytes, want about 250 and fewer for some", size)
	}

	again := mixed(u) // on the same logs, whose heads it does not know
	again.Fresh, again.Seed = false, 2
	devices := again.Devices()
	if r := load.Run(t.Context(), load.Options{URL: u}, load.Learn(devices)); r.Requests != 20 || r.ErrorCount != 0 {
		t.Errorf("learning the heads took %d polls; errors: %v", r.Requests, r.Errors)
	}
	if r := load.Run(t.Context(), load.Options{URL: u, Duration: 200 * time.Millisecond}, devices); r.Requests == 0 || r.ErrorCount != 0 {
		t.Errorf("the second run: %d requests, errors: %v", r.Requests, r.Errors)
	}
	check(t, s)
}

// TestSyncLosesAnswers cuts connections after the server has done what was
// asked: that is counted, and leads to no other error.
func TestSyncLosesAnswers(t *testing.T) {
	var asked atomic.Int64
	u, s := serve(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked.Add(1)%50 == 0 {
				h.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			h.ServeHTTP(w, r)
		})
	})
	r := load.Run(t.Context(), load.Options{URL: u, Requests: 500}, mixed(u).Devices())
	lost := int64(0)
	for _, kind := range []load.Kind{load.Push, load.Pull, load.Poll, load.Stale, load.Retry} {
		lost += r.Errors[kind.String()+": the server closed the connection"]
	}
	if lost != 10 || r.ErrorCount != 10 {
		t.Errorf("10 answers were lost; errors: %v", r.Errors)
	}
	check(t, s)
}

// TestSyncMistrusts runs against a server that answers everything with the same
// words, of which none may count.
func TestSyncMistrusts(t *testing.T) {
	u, _ := serve(t, func(http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"success":false,"error":{"code":"UnavailableError"}}`)
		})
	})
	if err := mixed(u).Try(t.Context()); err == nil {
		t.Error("Try finds no fault")
	}
	r := load.Run(t.Context(), load.Options{URL: u, Requests: 100}, mixed(u).Devices())
	if r.Requests != 0 || r.Errors["push: 503 UnavailableError"] == 0 || r.ErrorCount != 100 {
		t.Errorf("%d answers counted; errors: %v", r.Requests, r.Errors)
	}
}

// mutations counts what the store holds.
func mutations(t *testing.T, s store.Store) (n int) {
	t.Helper()
	ctx := t.Context()
	err := s.Users(ctx, func(user mutlog.User) error {
		return s.View(ctx, user, func(tx mutlog.Reader) error {
			batches, err := tx.Batches(mutlog.Beginning, 1<<30)
			for _, b := range batches {
				n += len(b.Entries)
			}
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func check(t *testing.T, s store.Store) {
	t.Helper()
	if err := mutlog.Check(context.Background(), s, func(problem string) { t.Error(problem) }); err != nil {
		t.Error(err)
	}
}
