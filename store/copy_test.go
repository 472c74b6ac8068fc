package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// fragmented returns a store whose file has many free pages, and what it holds.
func fragmented(t *testing.T) (*Bolt, map[mutlog.User]content) {
	t.Helper()
	s := openBoltTest(t, BoltOptions{FoldBatches: 5})
	large := bytes.Repeat([]byte("x"), 20000)
	for round := range 8 {
		for u := range 5 {
			user := mutlog.User(fmt.Sprint("user-", u))
			push(t, s, user, note(mutlog.Create, fmt.Sprint("n", round), fmt.Sprintf(`{"large":%q}`, large)))
		}
	}
	return s, contents(t, s)
}

func contents(t *testing.T, s mutlog.Store) map[mutlog.User]content {
	t.Helper()
	logs := map[mutlog.User]content{}
	for user := range usersOf(t, s) {
		logs[user] = read(t, s, user)
	}
	return logs
}

// A compacted store holds the same, is sound, counts as closed and takes pushes.
func TestCompact(t *testing.T) {
	s, want := fragmented(t)
	path := filepath.Join(t.TempDir(), "compact.db")
	var last, total int64
	err := s.Compact(t.Context(), path, func(done, all int64) {
		if done < last || done > all {
			t.Errorf("progress goes from %d to %d of %d", last, done, all)
		}
		last, total = done, all
	})
	if err != nil || last == 0 || total == 0 {
		t.Fatalf("%v; progress %d of %d", err, last, total)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %v, %v", info.Mode(), err)
	}
	c, err := OpenBolt(path, BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	before, err := s.Summary()
	if err != nil {
		t.Fatal(err)
	}
	after, err := c.Summary()
	if err != nil {
		t.Fatal(err)
	}
	if after.Bytes >= before.Bytes {
		t.Errorf("%d bytes became %d", before.Bytes, after.Bytes)
	}
	before.Bytes, after.Bytes = 0, 0
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("(- store, + compacted)\n%s", diff)
	}
	same(t, "logs", want, contents(t, c))
	mutlogtest.CheckSound(t, c)
	push(t, c, "user-1", note(mutlog.Create, "after", `{}`))
	closeSound(t, c)

	if err := s.Compact(t.Context(), path, nil); err == nil {
		t.Error("a file that was there was overwritten")
	}
}

// What is interrupted ends with the error of its context.
func TestCompactInterrupted(t *testing.T) {
	s, want := fragmented(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Compact(ctx, filepath.Join(t.TempDir(), "compact.db"), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if _, err := s.Copy(ctx, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	same(t, "logs", want, contents(t, s))
}

// A copy that is made under pushes is one state of the store: a prefix of every
// log, sound, and with all that was acknowledged before it began.
func TestCopyUnderPushes(t *testing.T) {
	t.Parallel()
	s := openBoltTest(t, BoltOptions{FoldBatches: 7})
	log := mutlog.New(s, mutlog.DefaultLimits)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for u := range 4 {
		wg.Go(func() {
			user, head := mutlog.User(fmt.Sprint("user-", u)), mutlog.Beginning
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
					p := mutlog.Push{Base: head, Mutations: []mutlog.Mutation{note(mutlog.Create, fmt.Sprint(i), `{"text":"of some length, so that pages fill"}`)}}
					answer, err := log.Push(t.Context(), user, p)
					if err != nil {
						t.Error(err)
						return
					}
					head = answer.Head
					time.Sleep(time.Millisecond) // or comparing the logs takes longer and longer
				}
			}
		})
	}
	for range 5 {
		before := contents(t, s)
		path := filepath.Join(t.TempDir(), "copy.db")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		n, err := s.Copy(t.Context(), f, nil)
		if err != nil {
			t.Fatal(err)
		}
		if info, _ := f.Stat(); info.Size() != n {
			t.Errorf("%d bytes were written, %d were told", info.Size(), n)
		}
		f.Close()
		c, err := OpenBolt(path, BoltOptions{})
		if err != nil {
			t.Fatal(err)
		}
		copied := contents(t, c)
		closeSound(t, c)
		// What was committed is told to readers before the next commit.
		push(t, s, "other", note(mutlog.Update, "a", `{}`))
		after := contents(t, s)
		for user, log := range after {
			got := copied[user]
			if got.Head < before[user].Head {
				t.Errorf("%s: the copy ends with %d, and %d had been acknowledged", user, got.Head, before[user].Head)
			}
			if n := len(got.Batches); n > len(log.Batches) || n > 0 && cmp.Diff(log.Batches[:n], got.Batches) != "" {
				t.Errorf("%s: what was copied is no prefix of the log", user)
			}
		}
	}
	close(stop)
	wg.Wait()
}

// A copy that takes its time holds no transaction open meanwhile, and has in the
// end what was pushed until then.
func TestCopyLeavesPagesAlone(t *testing.T) {
	s, _ := fragmented(t)
	path := filepath.Join(t.TempDir(), "copy.db")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pushed, called, most := 0, 0, int64(0)
	n, err := s.Copy(t.Context(), f, func(read, written int64) error {
		if open := s.db.Stats().OpenTxN; open > 0 {
			t.Errorf("after %d bytes %d transactions are open", read, open)
		}
		if called++; pushed < 40 {
			push(t, s, "user-2", note(mutlog.Update, fmt.Sprint("late-", pushed), `{}`))
			pushed++
		}
		most = max(most, written)
		return nil
	})
	if err != nil || pushed < 2 || most < n {
		t.Fatalf("%d of %d bytes were written in %d steps, %v", most, n, called, err)
	}
	c, err := OpenBolt(path, BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "logs", contents(t, s), contents(t, c))
	closeSound(t, c)
	broken := errors.New("broken")
	if _, err := s.Copy(t.Context(), f, func(int64, int64) error { return broken }); err != broken {
		t.Errorf("got %v", err)
	}
}

// Who waits for a store that is replaced meanwhile, as compact and restore do,
// gets neither the old file, which nobody would find again, nor a wrong answer.
func TestReplacedWhileWaiting(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "test.db")
	first, err := OpenBolt(path, BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	push(t, first, "alice", note(mutlog.Create, "a", `{}`))
	if err := first.Compact(t.Context(), path+".new", nil); err != nil {
		t.Fatal(err)
	}
	opened := make(chan error, 1)
	go func() {
		s, err := OpenBolt(path, BoltOptions{})
		if err == nil {
			p := mutlog.Push{Base: mutlog.Beginning, Mutations: []mutlog.Mutation{note(mutlog.Create, "b", `{}`)}}
			_, err = mutlog.New(s, mutlog.DefaultLimits).Push(context.Background(), "bob", p)
			err = errors.Join(err, s.Close())
		}
		opened <- err
	}()
	time.Sleep(500 * time.Millisecond) // until it waits for the lock
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	err = <-opened
	if err != nil && !errors.Is(err, ErrInUse) {
		t.Errorf("who waited got %v", err)
	}
	bobs := 0
	if err == nil { // it came so late that it opened the new file
		bobs = 1
	}
	second, err := OpenBolt(path, BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "batches of alice", 1, len(read(t, second, "alice").Batches))
	same(t, "batches of bob", bobs, len(read(t, second, "bob").Batches))
	closeSound(t, second)
}
