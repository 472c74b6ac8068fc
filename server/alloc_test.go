//go:build !race

package server_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"tidemark/devices"
	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store"
)

// The budgets of allocations, for what a device asks most often. The race
// detector makes allocations of its own, so that these run without it.
const (
	allocsPerPush           = 230 // of 10 mutations, to the disk and back; bbolt's commit makes half of them, here for one push alone
	allocsPerPulledMutation = 0.4 // beside those of the request itself: three to find a batch, which has 10 mutations here
	allocsPerPull           = 60
	allocsPerPoll           = 48
)

func TestAllocations(t *testing.T) {
	s, err := store.OpenBolt(filepath.Join(t.TempDir(), "test.db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	api := server.New(server.Options{
		Log:          mutlog.New(s, mutlog.DefaultLimits),
		Limits:       mutlog.DefaultLimits,
		MaxBodyBytes: 1 << 20,
		Devices:      devices.NewTracker(s, slog.New(slog.DiscardHandler)),
		Logger:       slog.New(slog.NewTextHandler(io.Discard, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	ask := func(method, uri, body string) {
		r, err := http.NewRequestWithContext(context.Background(), method, uri, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		api.ServeHTTP(&discard{http.Header{}}, r)
	}
	head := func() mutlog.Timestamp {
		head, err := mutlog.New(s, mutlog.DefaultLimits).Head(context.Background(), server.DefaultUser)
		if err != nil {
			t.Fatal(err)
		}
		return head
	}
	n := 0
	push := func() {
		body := strings.Builder{}
		body.WriteString(`{"mutations":[`)
		for i := range 10 {
			if i > 0 {
				body.WriteByte(',')
			}
			fmt.Fprintf(&body, `{"type":"CREATE","resource":"NOTE","resourceId":"note-%d","data":{"title":"a title","body":"%0200d"}}`, n*10+i, n)
		}
		body.WriteString(`]}`)
		n++
		ask("POST", fmt.Sprintf("/v1/sync?lastMutationAt=%d", head()), body.String())
	}
	making := testing.AllocsPerRun(50, func() { // what the test itself allocates to push
		body := strings.Builder{}
		for i := range 10 {
			fmt.Fprintf(&body, `{"type":"CREATE","resource":"NOTE","resourceId":"note-%d","data":{"title":"a title","body":"%0200d"}}`, i, i)
		}
		head()
	})
	before := head()
	pushing := testing.AllocsPerRun(99, push) - making
	if moved := head(); moved == before {
		t.Fatal("the pushes were refused")
	}
	pulling := testing.AllocsPerRun(20, func() { ask("GET", "/v1/sync?mutationsSince=-1", "") })
	polling := testing.AllocsPerRun(20, func() { ask("GET", "/v1/sync?mutationsSince=-1&metadataOnly=true", "") })
	t.Logf("a push of 10: %.0f, a pull of %d: %.0f, a poll: %.0f allocations", pushing, n*10, pulling, polling)
	if pushing > allocsPerPush {
		t.Errorf("a push of 10 mutations makes %.0f allocations, more than %d", pushing, allocsPerPush)
	}
	if most := allocsPerPull + allocsPerPulledMutation*float64(n*10); pulling > most {
		t.Errorf("a pull of %d changes makes %.0f allocations, more than %.0f", n*10, pulling, most)
	}
	if polling > allocsPerPoll {
		t.Errorf("a poll makes %.0f allocations, more than %d", polling, allocsPerPoll)
	}
}
