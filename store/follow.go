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
	some  chan struct{} // holds one if there are heads
}

// tell tells of batches that every reader sees.
func (fs *followers) tell(writes []*write) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if len(writes) == 0 {
		return
	}
	for f := range fs.all {
		f.add(writes)
	}
}

func (f *follower) add(writes []*write) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.heads == nil {
		f.heads = make(map[mutlog.User]mutlog.Timestamp, len(writes))
	}
	for _, w := range writes {
		f.heads[w.name] = w.place.head()
	}
	select {
	case f.some <- struct{}{}:
	default:
	}
}

// take returns the heads that were not told yet.
func (f *follower) take() map[mutlog.User]mutlog.Timestamp {
	f.mu.Lock()
	defer f.mu.Unlock()
	heads := f.heads
	f.heads = nil
	return heads
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

// Follow implements mutlog.Store. Nothing is ever missed.
func (s *Bolt) Follow(ctx context.Context, heard func(mutlog.User, mutlog.Timestamp), _ func()) error {
	f := s.followers.add()
	defer s.followers.remove(f)
	for {
		select {
		case <-f.some:
			for user, head := range f.take() {
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
