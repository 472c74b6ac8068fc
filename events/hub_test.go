package events

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// The tests of this package run in bubbles, where time passes at once. So the
// store is the one in memory: nothing outside a bubble may be waited for.

// rig is a hub that hears from a log.
type rig struct {
	*Hub
	log *faultyLog
}

// faultyLog is a log whose news can be cut off, and whose heads be out of sight.
type faultyLog struct {
	*mutlog.Log
	mu        sync.Mutex
	deaf      bool // pushes are not heard of
	blind     bool // heads cannot be looked at
	cut       context.CancelFunc
	missed    func()
	heads     map[mutlog.User]mutlog.Timestamp
	looks     int
	questions []int  // of how many users each was
	atLook    func() // what happens before a head is looked at, once
	afterIt   func() // what happens after it
}

func (l *faultyLog) Follow(ctx context.Context, heard func(mutlog.User, mutlog.Timestamp), missed func()) error {
	ctx, cancel := context.WithCancel(ctx)
	l.mu.Lock()
	l.cut, l.missed = cancel, missed
	l.mu.Unlock()
	return l.Log.Follow(ctx, func(user mutlog.User, head mutlog.Timestamp) {
		l.mu.Lock()
		deaf := l.deaf
		l.mu.Unlock()
		if !deaf {
			heard(user, head)
		}
	}, missed)
}

func (l *faultyLog) Head(ctx context.Context, user mutlog.User) (mutlog.Timestamp, error) {
	l.mu.Lock()
	before, after, blind := l.atLook, l.afterIt, l.blind
	l.atLook, l.afterIt = nil, nil
	l.looks++
	l.mu.Unlock()
	if before != nil {
		before()
	}
	if after != nil {
		defer after()
	}
	if blind {
		return 0, mutlog.ErrUnavailable
	}
	return l.Log.Head(ctx, user)
}

// Heads is what the log would do, with the faults of Head.
func (l *faultyLog) Heads(ctx context.Context, users []mutlog.User, fn func(mutlog.User, mutlog.Timestamp)) (all error) {
	l.mu.Lock()
	l.questions = append(l.questions, len(users))
	l.mu.Unlock()
	for _, user := range users {
		head, err := l.Head(ctx, user)
		if err == nil {
			fn(user, head)
		}
		all = errors.Join(all, err)
	}
	return all
}

// set changes a fault.
func (l *faultyLog) set(fault *bool, to bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*fault = to
}

// inBubble runs test with a hub at work.
func inBubble(t *testing.T, limits Limits, test func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		log := mutlog.New(mutlogtest.NewStore(), mutlog.DefaultLimits)
		r := &rig{log: &faultyLog{Log: log, heads: map[mutlog.User]mutlog.Timestamp{}}}
		r.Hub = New(r.log, limits, slog.New(slog.DiscardHandler))
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() { r.Run(ctx); close(over) }()
		synctest.Wait()
		test(t, r)
		stop()
		<-over
		if open, waiting := r.Counts(); open+waiting > 0 {
			t.Errorf("%d streams and %d waits are left", open, waiting)
		}
	})
}

var wide = Limits{PerUser: 1000, Streams: 1000, Waits: 1000}

// push adds a mutation to the log of user and returns its head.
func (r *rig) push(t testing.TB, user mutlog.User) mutlog.Timestamp {
	t.Helper()
	r.log.mu.Lock()
	base, ok := r.log.heads[user]
	r.log.mu.Unlock()
	if !ok {
		base = mutlog.Beginning
	}
	pushed, err := r.log.Push(context.Background(), user, mutlog.Push{Base: base, Mutations: []mutlog.Mutation{
		{Type: mutlog.Create, Resource: "NOTE", ResourceID: "a", Data: []byte("{}")}}})
	if err != nil {
		t.Fatal(err)
	}
	r.log.mu.Lock()
	r.log.heads[user] = pushed.Head
	r.log.mu.Unlock()
	return pushed.Head
}

// client is the far side of a stream.
type client struct {
	t       testing.TB
	stream  *Stream
	mu      sync.Mutex
	text    strings.Builder
	times   []time.Time // of writes with an event
	busy    bool
	stall   chan struct{} // writes wait for it, unless it is nil
	refused error         // what writes fail with
	reason  error         // why the stream has ended
	ended   int
}

// open opens a stream.
func (r *rig) open(t testing.TB, user mutlog.User) *client {
	t.Helper()
	s, err := r.Open(context.Background(), user)
	if err != nil {
		t.Fatal(err)
	}
	c := &client{t: t, stream: s}
	s.Start([]byte("prelude\n\n"), Sink{c.write, c.end})
	return c
}

// stallWrites makes writes wait until the channel is closed, and then fail with err.
func (c *client) stallWrites(err error) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stall, c.refused = make(chan struct{}), err
	return c.stall
}

func (c *client) write(b []byte) error {
	c.mu.Lock()
	if c.busy || c.ended > 0 {
		c.t.Error("a write beside another or after the end")
	}
	c.busy = true
	stall := c.stall
	c.mu.Unlock()
	if stall != nil {
		<-stall
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	if c.refused != nil {
		return c.refused
	}
	c.text.Write(b)
	if strings.Contains(string(b), "event:") {
		c.times = append(c.times, time.Now())
	}
	return nil
}

func (c *client) end(reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy {
		c.t.Error("the end comes beside a write")
	}
	c.reason = reason
	c.ended++
}

var idLine = regexp.MustCompile(`(?m)^id: (-?[0-9]+)$`)

// heads returns the heads that the client was told, and fails the test if they
// do not increase or come too fast.
func (c *client) heads() (heads []mutlog.Timestamp) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range idLine.FindAllStringSubmatch(c.text.String(), -1) {
		n, _ := strconv.ParseInt(m[1], 10, 64)
		heads = append(heads, mutlog.Timestamp(n))
	}
	for i := 1; i < len(heads); i++ {
		if heads[i] <= heads[i-1] {
			c.t.Errorf("told %v: not in order, or twice", heads)
		}
		if apart := c.times[i].Sub(c.times[i-1]); apart < Interval && c.reason != ErrClosed {
			c.t.Errorf("two events %s apart", apart)
		}
	}
	return heads
}

// said returns all that the client was told.
func (c *client) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// last returns the newest head that the client was told.
func (c *client) last() mutlog.Timestamp {
	c.t.Helper()
	heads := c.heads()
	if len(heads) == 0 {
		return unset
	}
	return heads[len(heads)-1]
}

// mustEnd fails the test unless the stream has ended once, for reason.
func (c *client) mustEnd(reason error) {
	c.t.Helper()
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended != 1 || !errors.Is(c.reason, reason) {
		c.t.Errorf("ended %d times, because of %v; want %v", c.ended, c.reason, reason)
	}
}

// TestStreamText: a stream begins with what it was given, says when to come
// back, and tells the head in the form of the documentation.
func TestStreamText(t *testing.T) {
	inBubble(t, wide, func(t *testing.T, r *rig) {
		c := r.open(t, "anna")
		synctest.Wait()
		want := regexp.MustCompile(`^prelude\n\nretry: [12][0-9]{3}\n\nevent: head\nid: -1\ndata: \{"lastMutationAt": -1\}\n\n$`)
		if !want.MatchString(c.said()) {
			t.Errorf("%q", c.said())
		}
		c.stream.End(errors.New("enough"))
	})
}

// TestStreamPace: a lone change is told at once; of many in a row, one in each
// interval, always the newest, and in the end the last.
func TestStreamPace(t *testing.T) {
	inBubble(t, wide, func(t *testing.T, r *rig) {
		c := r.open(t, "anna")
		defer c.stream.End(errors.New("enough"))
		time.Sleep(time.Hour + KeepAlive/time.Duration(spokes)) // right after a keep-alive
		synctest.Wait()
		if n := strings.Count(c.said(), ":\n\n"); n != 241 {
			t.Fatalf("%d keep-alives in an hour and a second", n)
		}
		head := r.push(t, "anna")
		synctest.Wait()
		if c.last() != head {
			t.Errorf("a lone change is not told at once: %v", c.heads())
		}
		begun, told := time.Now(), len(c.heads())
		for range 1000 {
			time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
			head = r.push(t, "anna")
		}
		took := time.Since(begun)
		time.Sleep(Interval)
		synctest.Wait()
		if c.last() != head {
			t.Errorf("the last of many changes is not told")
		}
		if n := len(c.heads()) - told; n > int(took/Interval)+2 || n < int(took/Interval)-2 {
			t.Errorf("%d events in %s", n, took)
		}
	})
}

// TestNoChangeIsMissed: a push at any moment of the opening of a stream, or of
// the beginning of a wait, is heard.
func TestNoChangeIsMissed(t *testing.T) {
	for name, arrange := range map[string]func(l *faultyLog, push func()){
		"before the look": func(l *faultyLog, push func()) { l.atLook = push },
		"after the look":  func(l *faultyLog, push func()) { l.afterIt = push },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, wide, func(t *testing.T, r *rig) {
				first := r.push(t, "anna")
				var head mutlog.Timestamp
				push := func() { head = r.push(t, "anna") }
				arrange(r.log, push)
				c := r.open(t, "anna")
				time.Sleep(Interval)
				synctest.Wait()
				if head <= first || c.last() != head {
					t.Errorf("told %v, want %d in the end", c.heads(), head)
				}
				c.stream.End(errors.New("enough"))

				after := head
				arrange(r.log, push)
				begun := time.Now()
				if err := r.Wait(t.Context(), "anna", after); err != nil || time.Since(begun) > 0 {
					t.Errorf("the wait took %s, %v", time.Since(begun), err)
				}
			})
		})
	}
}

// TestOthersAreNotTold: nobody hears of the logs of others.
func TestOthersAreNotTold(t *testing.T) {
	inBubble(t, wide, func(t *testing.T, r *rig) {
		anna, ben := r.open(t, "anna"), r.open(t, "ben")
		for range 10 {
			r.push(t, "anna")
			time.Sleep(time.Second)
		}
		if heads := ben.heads(); len(heads) != 1 || len(anna.heads()) != 11 {
			t.Errorf("ben is told %v, anna %v", heads, anna.heads())
		}
		anna.stream.End(errors.New("enough"))
		ben.stream.End(errors.New("enough"))
	})
}

// TestLookAgain: after news may have been missed, everybody learns the last head
// within two seconds, even if the store cannot be asked at first.
func TestLookAgain(t *testing.T) {
	inBubble(t, wide, func(t *testing.T, r *rig) {
		var clients []*client
		for i := range 100 {
			clients = append(clients, r.open(t, mutlog.User(fmt.Sprint(i))))
		}
		for range 50 {
			r.log.set(&r.log.deaf, true)
			for i := range 100 {
				r.push(t, mutlog.User(fmt.Sprint(i)))
			}
			r.log.set(&r.log.blind, true)
			time.Sleep(time.Second)
			r.log.missed()
			time.Sleep(time.Second)
			r.log.set(&r.log.blind, false)
			r.log.set(&r.log.deaf, false)
			time.Sleep(2 * time.Second)
			for i, c := range clients {
				if want := r.log.heads[mutlog.User(fmt.Sprint(i))]; c.last() != want {
					t.Fatalf("client %d is told %v, want %d in the end", i, c.heads(), want)
				}
			}
		}
		for _, c := range clients {
			c.stream.End(errors.New("enough"))
		}
	})
}

// TestFewQuestions: the heads of many who wait are not asked for one by one.
func TestFewQuestions(t *testing.T) {
	const users = 2*lookAtOnce + 1
	inBubble(t, Limits{PerUser: 1, Streams: users}, func(t *testing.T, r *rig) {
		var clients []*client
		for i := range users {
			clients = append(clients, r.open(t, mutlog.User(fmt.Sprint(i))))
		}
		r.log.missed()
		synctest.Wait()
		r.log.mu.Lock()
		slices.Sort(r.log.questions)
		if want := []int{1, lookAtOnce, lookAtOnce}; !slices.Equal(r.log.questions, want) {
			t.Errorf("asked for %v, want %v", r.log.questions, want)
		}
		r.log.mu.Unlock()
		for _, c := range clients {
			c.stream.End(errors.New("enough"))
		}
	})
}

// TestFollowAgain: a store that stops telling is followed again, and nothing is
// missed meanwhile.
func TestFollowAgain(t *testing.T) {
	inBubble(t, wide, func(t *testing.T, r *rig) {
		c := r.open(t, "anna")
		for range 10 {
			r.log.cut()
			synctest.Wait()
			head := r.push(t, "anna")
			time.Sleep(2 * time.Second)
			if c.last() != head {
				t.Fatalf("told %v, want %d in the end", c.heads(), head)
			}
		}
		c.stream.End(errors.New("enough"))
	})
}

// TestKeepAlive: each idle stream says that it is alive every 15 seconds, and
// they do not all do it at once.
func TestKeepAlive(t *testing.T) {
	inBubble(t, wide, func(t *testing.T, r *rig) {
		var clients []*client
		for range 30 {
			clients = append(clients, r.open(t, "anna"))
		}
		synctest.Wait()
		quiet := make([]int, 30)
		for i, c := range clients {
			quiet[i] = len(c.said())
		}
		spoke := func() (n int) {
			synctest.Wait()
			for i, c := range clients {
				if len(c.said()) > quiet[i] {
					n++
				}
			}
			return n
		}
		time.Sleep(KeepAlive / 2)
		if n := spoke(); n < 10 || n > 20 {
			t.Errorf("%d of 30 streams spoke in half of the time", n)
		}
		time.Sleep(KeepAlive / 2)
		if n := spoke(); n != 30 {
			t.Errorf("%d of 30 streams spoke in the whole of the time", n)
		}
		time.Sleep(9 * KeepAlive)
		synctest.Wait()
		for i, c := range clients {
			if n := strings.Count(c.said(), ":\n\n"); n != 10 || len(c.heads()) != 1 {
				t.Errorf("stream %d: %d comments in ten times the time", i, n)
			}
			c.stream.End(errors.New("enough"))
		}
	})
}

// TestStalledClient: a client that does not read holds up nobody, ends when its
// write fails, and one that catches up is told the newest head only.
func TestStalledClient(t *testing.T) {
	inBubble(t, wide, func(t *testing.T, r *rig) {
		other, slow, dead := r.open(t, "anna"), r.open(t, "anna"), r.open(t, "anna")
		synctest.Wait()
		goOn, die := slow.stallWrites(nil), dead.stallWrites(context.DeadlineExceeded)
		var head mutlog.Timestamp
		for range 40 {
			head = r.push(t, "anna")
			time.Sleep(Interval)
		}
		if n := len(other.heads()); n < 40 {
			t.Errorf("beside a stalled client another was told %d heads, want 40", n)
		}
		close(goOn)
		close(die)
		dead.mustEnd(context.DeadlineExceeded)
		time.Sleep(Interval)
		synctest.Wait()
		if heads := slow.heads(); slow.last() != head || len(heads) != 3 {
			t.Errorf("a client that caught up is told %v, want the first, the one it stalled at and %d", heads, head)
		}
		slow.stream.End(errors.New("enough"))
		synctest.Wait()
		other.stream.End(errors.New("enough"))
	})
}

// TestEnd: a stream ends once, whoever ends it and when.
func TestEnd(t *testing.T) {
	enough := errors.New("enough")
	inBubble(t, wide, func(t *testing.T, r *rig) {
		c := r.open(t, "anna")
		synctest.Wait()
		goOn := c.stallWrites(nil)
		r.push(t, "anna")
		time.Sleep(time.Second)
		c.stream.End(enough)
		c.stream.End(errors.New("again"))
		synctest.Wait()
		if c.ended != 0 {
			t.Error("it ends beside a write")
		}
		close(goOn)
		c.mustEnd(enough)

		s, err := r.Open(t.Context(), "anna")
		if err != nil {
			t.Fatal(err)
		}
		s.End(enough) // before it starts
		late := &client{t: t, stream: s}
		s.Start(nil, Sink{late.write, late.end})
		late.mustEnd(enough)
		if len(late.said()) > 0 {
			t.Errorf("an ended stream says %q", late.said())
		}
	})
}

// TestClose: everybody hears the last head and when to come back, a stalled
// client does not hold up the end for ever, and nobody new comes in.
func TestClose(t *testing.T) {
	inBubble(t, wide, func(t *testing.T, r *rig) {
		c, stalled := r.open(t, "anna"), r.open(t, "ben")
		synctest.Wait()
		goOn := stalled.stallWrites(nil)
		r.push(t, "ben")
		waited := make(chan error)
		go func() { waited <- r.Wait(context.Background(), "carl", mutlog.Beginning) }()
		time.Sleep(time.Second)
		r.push(t, "anna")
		head := r.push(t, "anna")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begun := time.Now()
		r.Close(ctx)
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("with a stalled client, it takes %s", took)
		}
		c.mustEnd(ErrClosed)
		if err := <-waited; err != nil {
			t.Error(err)
		}
		if c.last() != head || !regexp.MustCompile(`\nretry: [1-5][0-9]{3}\n\n$`).MatchString(c.said()) {
			t.Errorf("the last words are %q", c.said())
		}
		if _, err := r.Open(t.Context(), "anna"); err != ErrClosed {
			t.Errorf("a stream after the end: %v", err)
		}
		if err := r.Wait(t.Context(), "anna", head); err != nil {
			t.Errorf("a wait after the end: %v", err)
		}
		close(goOn)
		stalled.mustEnd(ErrClosed)
	})
}

// TestLimits: what is over a limit is refused, and what has ended makes room.
func TestLimits(t *testing.T) {
	inBubble(t, Limits{PerUser: 2, Streams: 3, Waits: 1}, func(t *testing.T, r *rig) {
		enough := errors.New("enough")
		first, second := r.open(t, "anna"), r.open(t, "anna")
		refused := func(user mutlog.User, want error) {
			t.Helper()
			if _, err := r.Open(t.Context(), user); err != want {
				t.Errorf("a stream of %s: %v, want %v", user, err, want)
			}
		}
		refused("anna", ErrUserLimit)
		if err := r.Wait(t.Context(), "anna", mutlog.Beginning); err != ErrUserLimit {
			t.Errorf("a wait: %v", err)
		}
		third := r.open(t, "ben")
		refused("carl", ErrFull)
		waited := make(chan error)
		go func() { waited <- r.Wait(context.Background(), "ben", mutlog.Beginning) }()
		synctest.Wait()
		refused("ben", ErrUserLimit)
		if err := r.Wait(t.Context(), "carl", mutlog.Beginning); err != ErrFull {
			t.Errorf("one wait too many of all: %v", err)
		}
		r.push(t, "ben")
		if err := <-waited; err != nil {
			t.Error(err)
		}
		first.stream.End(enough)
		r.open(t, "carl").stream.End(enough)
		second.stream.End(enough)
		third.stream.End(enough)
		r.log.set(&r.log.blind, true)
		if _, err := r.Open(t.Context(), "anna"); !errors.Is(err, mutlog.ErrUnavailable) {
			t.Errorf("without a head: %v", err)
		}
	})
}

// TestWait: what a wait waits for, and what ends it.
func TestWait(t *testing.T) {
	inBubble(t, wide, func(t *testing.T, r *rig) {
		head := r.push(t, "anna")
		for _, c := range []struct {
			name  string
			user  mutlog.User
			after mutlog.Timestamp
			want  time.Duration // 10 s is the patience
		}{
			{"behind", "anna", head - 1, 0},
			{"at the beginning", "anna", mutlog.Beginning, 0},
			{"level", "anna", head, 10 * time.Second},
			{"ahead", "anna", head + 1, 0},
			{"of nothing, with nothing", "ben", mutlog.Beginning, 10 * time.Second},
			{"of nothing, from 0", "ben", 0, 10 * time.Second},
			{"of nothing, ahead", "ben", 1, 0},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			begun := time.Now()
			if err := r.Wait(ctx, c.user, c.after); err != nil || time.Since(begun) != c.want {
				t.Errorf("%s: %s, %v; want %s", c.name, time.Since(begun), err, c.want)
			}
			cancel()
		}
	})
}
