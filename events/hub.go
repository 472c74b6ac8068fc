package events

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"tidemark/mutlog"
)

// The refusals of a hub.
var (
	// ErrUserLimit: the user has as many streams and waiting pulls as one may
	// have.
	ErrUserLimit = errors.New("the user has too many streams and waiting pulls")

	// ErrFull: all users together have as many as there may be.
	ErrFull = errors.New("there are too many streams or waiting pulls")

	// ErrClosed: the hub is shutting down.
	ErrClosed = errors.New("the server is shutting down")
)

// Source is what a hub hears from: a *mutlog.Log.
type Source interface {
	// Head returns the head of the log of user.
	Head(ctx context.Context, user mutlog.User) (mutlog.Timestamp, error)

	// Heads calls fn with the head of each of the logs of users that is not
	// empty, and returns the errors of those that it cannot see.
	Heads(ctx context.Context, users []mutlog.User, fn func(mutlog.User, mutlog.Timestamp)) error

	// Follow is that of mutlog.Store.
	Follow(ctx context.Context, heard func(mutlog.User, mutlog.Timestamp), missed func()) error
}

// Limits bound who may wait at the same time.
type Limits struct {
	PerUser int // streams and waiting pulls of one user
	Streams int // streams of all users
	Waits   int // waiting pulls of all users
}

// kind is what a subscription is for, as far as Limits tell it apart.
type kind int

const (
	streams kind = iota
	waits
	kinds
)

// Hub tells those who wait for a user's log of its new heads.
type Hub struct {
	log    Source
	limits [kinds]int
	most   int // of one user
	logger *slog.Logger

	look chan struct{} // holds one if all heads are to be looked at again
	beat wheel

	mu     sync.Mutex
	users  map[mutlog.User]map[*subscription]struct{}
	counts [kinds]int
	closed bool
}

// New returns a hub of log. It hears nothing until Run.
func New(log Source, limits Limits, logger *slog.Logger) *Hub {
	return &Hub{
		log: log, logger: logger,
		limits: [kinds]int{streams: limits.Streams, waits: limits.Waits}, most: limits.PerUser,
		look:  make(chan struct{}, 1),
		users: map[mutlog.User]map[*subscription]struct{}{},
	}
}

// subscription is one who waits. wake is called with each new head, and end when
// the hub closes; they must not block, nor call the hub.
type subscription struct {
	hub  *Hub
	user mutlog.User
	kind kind
	wake func(head mutlog.Timestamp)
	end  func()
}

// subscribe registers s, or fails with ErrUserLimit, ErrFull or ErrClosed.
func (h *Hub) subscribe(s *subscription) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch of := h.users[s.user]; {
	case h.closed:
		return ErrClosed
	case len(of) >= h.most:
		return ErrUserLimit
	case h.counts[s.kind] >= h.limits[s.kind]:
		return ErrFull
	case of == nil:
		h.users[s.user] = map[*subscription]struct{}{s: {}}
	default:
		of[s] = struct{}{}
	}
	h.counts[s.kind]++
	return nil
}

// leave ends a subscription; again, it does nothing.
func (s *subscription) leave() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	of := h.users[s.user]
	if _, there := of[s]; !there {
		return
	}
	if delete(of, s); len(of) == 0 {
		delete(h.users, s.user)
	}
	h.counts[s.kind]--
}

// heard wakes whoever waits for the log of user.
func (h *Hub) heard(user mutlog.User, head mutlog.Timestamp) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.users[user] {
		s.wake(head)
	}
}

// missed makes the hub look at the heads of all logs that somebody waits for.
func (h *Hub) missed() {
	select {
	case h.look <- struct{}{}:
	default: // it is to be done already
	}
}

// Counts returns how many streams and waiting pulls there are.
func (h *Hub) Counts() (open, waiting int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.counts[streams], h.counts[waits]
}

// Run hears and tells until ctx is done.
func (h *Hub) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { h.follow(ctx) })
	wg.Go(func() { h.lookAgain(ctx) })
	wg.Go(func() { h.beat.run(ctx) })
}

// followPause is how long a hub waits before it follows a store again that has
// given up.
const followPause = 200 * time.Millisecond

// follow hears from the store.
func (h *Hub) follow(ctx context.Context) {
	for {
		err := h.log.Follow(ctx, h.heard, h.missed)
		if ctx.Err() != nil {
			return
		}
		h.logger.Warn("the store does not tell of pushes; trying again", "error", err)
		pause(ctx, followPause)
		h.missed()
	}
}

// pause waits for d or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// Close ends all streams with goodbye, which says when to come back, and all
// waits; new ones are refused. It returns when all have ended, or ctx is done.
func (h *Hub) Close(ctx context.Context) {
	h.mu.Lock()
	h.closed = true
	for _, of := range h.users {
		for s := range of {
			s.end()
		}
	}
	h.mu.Unlock()
	const step = 10 * time.Millisecond
	for open, _ := h.Counts(); open > 0 && ctx.Err() == nil; open, _ = h.Counts() {
		pause(ctx, step)
	}
}
