package mutlogtest

import (
	"context"

	"tidemark/mutlog"
)

// follower is one call of Follow.
type follower struct {
	heads chan heard
	done  <-chan struct{}
}

// heard is a head that a follower is to be told.
type heard struct {
	user mutlog.User
	head mutlog.Timestamp
}

// Follow implements mutlog.Store. A follower that is 1,000 heads behind makes
// pushes wait.
func (s *Store) Follow(ctx context.Context, hear func(mutlog.User, mutlog.Timestamp), missed func()) error {
	f := &follower{make(chan heard, 1000), ctx.Done()}
	s.mu.Lock()
	s.followers[f] = true
	s.mu.Unlock()
	missed()
	for {
		select {
		case h := <-f.heads:
			hear(h.user, h.head)
		case <-ctx.Done():
			s.mu.Lock()
			delete(s.followers, f)
			s.mu.Unlock()
			return ctx.Err()
		}
	}
}

// tell tells all followers the head of the log of user.
func (s *Store) tell(user mutlog.User, head mutlog.Timestamp) {
	for f := range s.followers {
		select {
		case f.heads <- heard{user, head}:
		case <-f.done:
		}
	}
}
