package server_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"tidemark/devices"
	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store"
)

// BenchmarkAnswer measures what the server does for one request, without the
// network and the syncs of the disk: 1,000 users have three batches each, and one
// has 1,000 resources besides.
func BenchmarkAnswer(b *testing.B) {
	s, err := store.OpenBolt(filepath.Join(b.TempDir(), "bench.db"), store.BoltOptions{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	log := mutlog.New(s, mutlog.DefaultLimits)
	api := server.New(server.Options{
		Log: log, Limits: mutlog.DefaultLimits, MaxBodyBytes: 1 << 20,
		Devices: devices.NewTracker(s, slog.New(slog.DiscardHandler)),
		Logger:  slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	ask := func(user, method, uri, body string) http.Header {
		r, err := http.NewRequestWithContext(context.Background(), method, uri, strings.NewReader(body))
		if err != nil {
			b.Fatal(err)
		}
		r.Header["Content-Type"] = []string{"application/json"}
		r.Header["X-User-Id"] = []string{user}
		answer := discard{http.Header{}}
		api.ServeHTTP(&answer, r)
		return answer.header
	}
	push := func(user, head string, n int) string {
		return ask(user, "POST", "/v1/sync?lastMutationAt="+head, notes(n)).Get("X-Mutation-At")
	}
	const users = 1000
	heads := make([]string, users)
	for i := range heads {
		heads[i] = "-1"
		for range 3 {
			heads[i] = push("user-"+strconv.Itoa(i), heads[i], 10)
		}
	}
	reader := "-1"
	for range 100 {
		reader = push("reader", reader, 10)
	}
	b.Run("poll", func(b *testing.B) {
		for i := range b.N {
			ask("user-"+strconv.Itoa(i%users), "GET", "/v1/sync?mutationsSince=0&metadataOnly=true", "")
		}
	})
	b.Run("pull=1000", func(b *testing.B) {
		for range b.N {
			ask("reader", "GET", "/v1/sync?mutationsSince=0", "")
		}
	})
	for _, n := range []int{1, 10, 100} {
		b.Run("push="+strconv.Itoa(n), func(b *testing.B) {
			for i := range b.N {
				heads[i%users] = push("user-"+strconv.Itoa(i%users), heads[i%users], n)
			}
		})
	}
	b.Run("refused=10", func(b *testing.B) {
		before := make([]string, users)
		for i := range before {
			before[i], heads[i] = heads[i], push("user-"+strconv.Itoa(i), heads[i], 10)
		}
		b.ResetTimer()
		for i := range b.N {
			if push("user-"+strconv.Itoa(i%users), before[i%users], 10) != "" {
				b.Fatal("it is not refused")
			}
		}
	})
}

// notes is the body of a push of n new notes.
func notes(n int) string {
	var body strings.Builder
	body.WriteString(`{"mutations":[`)
	for i := range n {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"type":"CREATE","resource":"NOTE","resourceId":%q,"data":{"title":"a title","tags":["a","b"],"position":%d,"body":"%0120d"}}`, uuid.NewString(), i, n)
	}
	return body.String() + "]}"
}

// discard is a client that has read everything already.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(b []byte) (int, error) { return len(b), nil }
