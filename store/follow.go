package store

import (
	"context"
	"fmt"
	"sync"

	"tidemark/mutlog"
)

// followers are the calls of Follow under way.
type followers struct {
	mu  sync.Mutex
	all map[*follower]bool
}

// follower gathers the heads that one call of Follow has not told yet, so that
// the committer waits for nobody.
type follower struct {
	mu    sync.Mutex
	heads map[mutlog.User]mutlog.Timestamp
	blind bool          // heads may have been missed
	some  chan struct{} // holds one if there is something to tell
}

// tell tells of batches that every reader sees.
func (fs *followers) tell(writes []*write) {
	if len(writes) == 0 {
		return
	}
	fs.each(func(f *follower) {
		for _, w := range writes {
			f.heads[w.name] = w.place.head()
		}
	})
}

// each lets fn give something to each follower.
func (fs *followers) each(fn func(*follower)) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for f := range fs.all {
		f.add(fn)
	}
}

func (f *follower) add(fn func(*follower)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.heads == nil {
		f.heads = map[mutlog.User]mutlog.Timestamp{}
	}
	fn(f)
	select {
	case f.some <- struct{}{}:
	default:
	}
}

// take returns what was not told yet.
func (f *follower) take() (heads map[mutlog.User]mutlog.Timestamp, blind bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	heads, blind = f.heads, f.blind
	f.heads, f.blind = nil, false
	return heads, blind
}

func (fs *followers) add() *follower {
	f := &follower{some: make(chan struct{}, 1)}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.all == nil {
		fs.all = map[*follower]bool{}
	}
	fs.all[f] = true
	return f
}

func (fs *followers) remove(f *follower) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.all, f)
}

// Follow implements mutlog.Store. Nothing is missed from the beginning on.
func (s *Bolt) Follow(ctx context.Context, heard func(mutlog.User, mutlog.Timestamp), missed func()) error {
	f := s.followers.add()
	defer s.followers.remove(f)
	missed()
	for {
		select {
		case <-f.some:
			heads, _ := f.take()
			for user, head := range heads {
				heard(user, head)
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.failed:
			return errFailed
		case <-s.done:
			return fmt.Errorf("%w: it is closed or read only", mutlog.ErrUnavailable)
		}
	}
}
