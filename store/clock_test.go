package store_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store"
	"tidemark/store/postgrestest"
)

// jump is how a clock that is set by others moves from one push to the next.
func jump(t *rapid.T, now int64) int64 {
	const hour, year = int64(time.Hour / time.Millisecond), 365 * 24 * int64(time.Hour/time.Millisecond)
	switch rapid.SampledFrom([]string{"still", "tick", "jitter", "back", "forward", "1970", "end"}).Draw(t, "jump") {
	case "tick":
		return now + rapid.Int64Range(1, 50).Draw(t, "ms")
	case "jitter":
		return now + rapid.Int64Range(-20, 20).Draw(t, "ms")
	case "back":
		return now - hour
	case "forward":
		return now + 10*year
	case "1970":
		return rapid.Int64Range(-hour, hour).Draw(t, "ms")
	case "end": // of the range of timestamps, and beyond
		if rapid.IntRange(0, 9).Draw(t, "rarely") == 0 {
			return int64(mutlog.MaxTimestamp) + rapid.Int64Range(-30, 30).Draw(t, "ms")
		}
	}
	return now
}

// TestF23Clock: whatever the clock does, the heads of a log strictly increase, each
// batch gets max(now, head + 1) and the following, and all stay below 2^53
// (rule 3). That a head is far ahead of the clock stops neither a push nor the
// start of a server.
func TestF23Clock(t *testing.T) {
	t.Run("bolt", func(t *testing.T) { testClock(t, filepath.Join(t.TempDir(), "tidemark.db")) })
	t.Run("postgres", func(t *testing.T) { testClock(t, postgrestest.URL(t)) })
}

func testClock(t *testing.T, url string) {
	open := func() store.Store {
		s, err := store.Open(url, store.BoltOptions{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	heads := map[mutlog.User]mutlog.Timestamp{}
	users, jumps, full := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		users++
		user := mutlog.User(fmt.Sprintf("user %d", users))
		var clock mutlogtest.Clock
		log := mutlog.New(s, mutlog.DefaultLimits)
		log.Now = clock.Now
		head, now := mutlog.Beginning, int64(1731636500303)
		for range rapid.IntRange(10, 40).Draw(t, "pushes") {
			jumps++
			now = jump(t, now)
			clock.Set(now)
			n := mutlog.Timestamp(rapid.IntRange(1, 5).Draw(t, "mutations"))
			p := mutlog.Push{Base: head, Mutations: make([]mutlog.Mutation, n)}
			for i := range p.Mutations {
				p.Mutations[i] = mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", ResourceID: fmt.Sprint(i), Data: []byte("{}")}
			}
			pushed, err := log.Push(t.Context(), user, p)
			if errors.Is(err, mutlog.ErrLogFull) && head > mutlog.MaxTimestamp-n {
				full++
				continue
			}
			if err != nil {
				t.Fatalf("at %d on %d: %v", now, head, err)
			}
			want := max(mutlog.Timestamp(now), head+1, 1)
			if want > mutlog.MaxTimestamp-n+1 { // it does not fit below 2^53
				want = max(head+1, 1)
			}
			for i, m := range pushed.Mutations {
				if m.Timestamp != want+mutlog.Timestamp(i) || m.Timestamp <= head || m.Timestamp > mutlog.MaxTimestamp {
					t.Fatalf("at %d on %d: mutation %d got %d, want %d", now, head, i, m.Timestamp, want+mutlog.Timestamp(i))
				}
			}
			head = pushed.Head
			if got, err := log.Head(t.Context(), user); err != nil || got != head || got != want+n-1 {
				t.Fatalf("the head is %d (%v) after %d", got, err, head)
			}
			again, err := log.Push(t.Context(), user, p)
			if err != nil || !again.Replayed || again.Head != head {
				t.Fatalf("the same push again: %+v, %v", again, err)
			}
		}
		heads[user] = head
	})
	if t.Failed() {
		return
	}
	mutlogtest.CheckSound(t, s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open()
	defer s.Close()
	for user, head := range heads {
		if got, err := mutlog.New(s, mutlog.DefaultLimits).Head(t.Context(), user); err != nil || got != head {
			t.Errorf("%s: the head is %d (%v) after a restart, and was %d", user, got, err, head)
		}
	}
	if jumps < 1000 && !testing.Short() {
		t.Errorf("only %d jumps", jumps)
	}
	t.Logf("%d jumps of the clock, %d pushes on a full log", jumps, full)
}
