package store

import (
	"context"
	"sync"
	"time"

	"tidemark/mutlog"
)

// Following
//
// A push tells the followers of its own process at once, and those of others by
// NOTIFY. That is not part of its transaction: one that notifies takes a lock
// which all of the database share and keeps it until its commit is on disk, so that
// no two pushes would share a sync any more. Instead the heads of whatever users
// that have become durable are sent together, a moment later, in a transaction
// that waits for no disk (postgres_notify.go).
//
// What a process did not come to send before it was killed, nobody hears. So
// followers are told every lookAgain that they may have missed something. An
// engine without LISTEN, or a pool in transaction mode, through which nothing is
// heard, is found out by a notification of one's own; then followers are told
// so every pollEvery, which makes those who wait look for themselves.
const (
	lookAgain = 30 * time.Second
	pollEvery = time.Second
)

// Follow implements mutlog.Store.
func (s *Postgres) Follow(ctx context.Context, heard func(mutlog.User, mutlog.Timestamp), missed func()) error {
	if s.closed.Load() {
		return errClosed
	}
	f := s.followers.add()
	defer s.followers.remove(f)
	s.listening.Do(func() { s.background.Go(s.listen) })
	missed() // of others: once more when they are heard
	for {
		select {
		case <-f.some:
			heads, blind := f.take()
			for user, head := range heads {
				heard(user, head)
			}
			if blind {
				missed()
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing.Done():
			return errClosed
		}
	}
}

// Heads implements mutlog.HeadReader, for followers who may have missed
// something: thousands may wait, and each would ask every lookAgain.
func (s *Postgres) Heads(ctx context.Context, users []mutlog.User) (map[mutlog.User]mutlog.Timestamp, error) {
	if s.closed.Load() {
		return nil, errClosed
	}
	names := make([][]byte, len(users))
	for i, user := range users {
		names[i] = []byte(user)
	}
	logs, err := collect(ctx, s, scanUserHead, `SELECT user_id, head FROM tidemark.logs WHERE user_id = ANY($1)`, names)
	if err != nil {
		return nil, err
	}
	heads := make(map[mutlog.User]mutlog.Timestamp, len(logs))
	for _, log := range logs {
		if log.head > mutlog.Beginning { // else it has nothing but bounds
			heads[mutlog.User(log.user)] = log.head
		}
	}
	return heads, nil
}

// miss tells all followers that heads may have been missed.
func (s *Postgres) miss() { s.followers.each(func(f *follower) { f.blind = true }) }

// tell tells all followers of a head that every reader sees, unless a later one
// of that log was told before: what two pushes have to tell can overtake each
// other.
func (s *Postgres) tell(user mutlog.User, head mutlog.Timestamp) {
	s.told.mu.Lock()
	defer s.told.mu.Unlock()
	if s.told.isNew(user, head) {
		s.followers.each(func(f *follower) { f.heads[user] = head })
	}
}

// told remembers the heads told lately, for one to two minutes: by then nothing is
// on its way any more.
type told struct {
	mu          sync.Mutex
	now, before map[mutlog.User]mutlog.Timestamp
	since       time.Time
}

func (t *told) isNew(user mutlog.User, head mutlog.Timestamp) bool {
	if time.Since(t.since) > time.Minute {
		t.now, t.before, t.since = map[mutlog.User]mutlog.Timestamp{}, t.now, time.Now()
	}
	if head <= max(t.now[user], t.before[user]) {
		return false
	}
	t.now[user] = head
	return true
}
