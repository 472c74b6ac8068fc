package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"tidemark/mutlog"
)

// listener follows a store and keeps what it hears.
type listener struct {
	t     *testing.T
	s     Store
	mu    sync.Mutex
	heads map[mutlog.User]mutlog.Timestamp
}

// hear is called with a head: it must be one that every view sees, and later
// than the one before.
func (l *listener) hear(user mutlog.User, head mutlog.Timestamp) {
	err := l.s.View(context.Background(), user, func(tx mutlog.Reader) error {
		if seen, err := tx.Head(); err != nil || seen < head {
			l.t.Errorf("%s: head %d is told, and a view sees %d, %v", user, head, seen, err)
		}
		return nil
	})
	if err != nil {
		l.t.Error(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if head <= l.heads[user] {
		l.t.Errorf("%s: head %d is told after %d", user, head, l.heads[user])
	}
	l.heads[user] = head
}

func (l *listener) heard(user mutlog.User) mutlog.Timestamp {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.heads[user]
}

// eventually waits until that is true.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in 30 seconds: %s", what)
		}
	}
}

// "Follow calls heard with the head of a log soon after each push …, until ctx
// is done." "Missed is called at first, once every later push is heard of."
func testFollow(t *testing.T, o *opener) {
	s := o.open()
	ctx, cancel := context.WithCancel(t.Context())
	var followers sync.WaitGroup
	var listeners []*listener
	for range 2 {
		l := &listener{t: t, s: s, heads: map[mutlog.User]mutlog.Timestamp{}}
		listeners = append(listeners, l)
		begun := make(chan struct{})
		begin := sync.OnceFunc(func() { close(begun) })
		followers.Go(func() {
			if err := s.Follow(ctx, l.hear, begin); !errors.Is(err, context.Canceled) {
				t.Errorf("Follow returned %v", err)
			}
		})
		<-begun
		first := push(t, s, "first", note(mutlog.Update, "a", `{}`))
		eventually(t, "the follower hears", func() bool { return l.heard("first") == first })
	}
	const users = 10
	heads := make([]mutlog.Timestamp, users)
	var pushes sync.WaitGroup
	for u := range users {
		pushes.Go(func() {
			for range 10 {
				heads[u] = push(t, s, mutlog.User(fmt.Sprint("user-", u)), note(mutlog.Update, "a", `{}`))
			}
		})
	}
	pushes.Wait()
	for _, l := range listeners {
		for u, head := range heads {
			user := mutlog.User(fmt.Sprint("user-", u))
			eventually(t, "the newest head is told", func() bool { return l.heard(user) == head })
		}
	}
	cancel()
	followers.Wait()
	push(t, s, "last", note(mutlog.Update, "a", `{}`))
	if listeners[0].heard("last") != 0 {
		t.Error("a head was told after the end")
	}
}

// The committer waits for no follower, whatever that does.
func TestFollowerHoldsUpNothing(t *testing.T) {
	s := backends[0].opener(t).open()
	blocked, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	ctx, cancel := context.WithCancel(t.Context())
	var follower sync.WaitGroup
	follower.Go(func() {
		s.Follow(ctx, func(mutlog.User, mutlog.Timestamp) { once.Do(func() { close(blocked) }); <-release }, func() {})
	})
	eventually(t, "the follower is blocked", func() bool {
		push(t, s, "alice", note(mutlog.Update, "a", `{}`))
		select {
		case <-blocked:
			return true
		default:
			return false
		}
	})
	for range 100 {
		push(t, s, "alice", note(mutlog.Update, "a", `{}`))
	}
	cancel()
	close(release)
	follower.Wait()
}

// A follower is told when the store ends.
func TestFollowEnds(t *testing.T) {
	s := backends[0].opener(t).open()
	ended := make(chan error)
	go func() { ended <- s.Follow(t.Context(), func(mutlog.User, mutlog.Timestamp) {}, func() {}) }()
	closeSound(t, s)
	if err := <-ended; !errors.Is(err, mutlog.ErrUnavailable) {
		t.Errorf("Follow returned %v", err)
	}
}
