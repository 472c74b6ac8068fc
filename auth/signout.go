package auth

import (
	"context"
	"fmt"
	"hash/maphash"
	"strconv"
	"sync"
	"time"

	"tidemark/mutlog"
)

// signOuts is from when on the JWTs of a user count. A JWT cannot be taken back
// by itself, but those that were issued before a moment can.
type signOuts struct {
	records Records
	seed    maphash.Seed

	mu sync.Mutex
	at map[mutlog.User]time.Time

	// The users share a few channels, since there is no bound to how many there
	// are: one that closes makes more answers end than it must, and each of
	// these can be asked for again.
	done [64]chan struct{}
}

func newSignOuts(records Records) *signOuts {
	s := &signOuts{records: records, seed: maphash.MakeSeed(), at: map[mutlog.User]time.Time{}}
	for i := range s.done {
		s.done[i] = make(chan struct{})
	}
	return s
}

func signOutKey(user mutlog.User) mutlog.RecordKey {
	return mutlog.RecordKey{Kind: "signout", Owner: string(user)}
}

func (s *signOuts) place(user mutlog.User) *chan struct{} {
	return &s.done[maphash.String(s.seed, string(user))%uint64(len(s.done))]
}

// of returns from when on JWTs of user count, and what is closed when that
// may have changed.
func (s *signOuts) of(user mutlog.User) (time.Time, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[user], *s.place(user)
}

// set makes the JWTs of user that were issued until at not count any more.
func (s *signOuts) set(ctx context.Context, user mutlog.User, at time.Time) error {
	err := s.records.UpdateRecord(ctx, signOutKey(user), func([]byte) ([]byte, error) {
		return strconv.AppendInt(nil, at.UnixMilli(), 10), nil
	})
	if err == nil {
		s.take(user, at)
	}
	return err
}

func (s *signOuts) take(user mutlog.User, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.After(s.at[user]) {
		s.at[user] = at
		done := s.place(user)
		close(*done)
		*done = make(chan struct{})
	}
}

// load reads what the store has.
func (s *signOuts) load(ctx context.Context) error {
	for r, err := range s.records.Records(ctx, "signout", "") {
		if err != nil {
			return err
		}
		ms, err := strconv.ParseInt(string(r.Value), 10, 64)
		if err != nil {
			return fmt.Errorf("%w: the sign-out of %s: %w", mutlog.ErrCorrupt, r.Owner, err)
		}
		s.take(mutlog.User(r.Owner), time.UnixMilli(ms))
	}
	return nil
}
