package auth

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"tidemark/mutlog"
)

// signOuts is from when on the JWTs of a user count. A JWT cannot be taken back
// by itself, but those that were issued before a moment can. Users stand here by
// their hashes, since a sign-out outlasts the erasure of its user.
type signOuts struct {
	records Records

	mu sync.Mutex
	at map[userHash]time.Time

	// The users share a few channels, since there is no bound to how many there
	// are: one that closes makes more answers end than it must, and each of
	// these can be asked for again.
	done [64]chan struct{}
}

func newSignOuts(records Records) *signOuts {
	s := &signOuts{records: records, at: map[userHash]time.Time{}}
	for i := range s.done {
		s.done[i] = make(chan struct{})
	}
	return s
}

// userHash is the SHA-256 of the name of a user.
type userHash [sha256.Size]byte

func hashOfUser(user mutlog.User) userHash { return sha256.Sum256([]byte(user)) }

func signOutKey(user userHash) mutlog.RecordKey {
	return recordKey("signout", hex.EncodeToString(user[:]), "")
}

func (s *signOuts) place(user userHash) *chan struct{} { return &s.done[int(user[0])%len(s.done)] }

// of returns from when on JWTs of user count, and what is closed when that
// may have changed.
func (s *signOuts) of(user mutlog.User) (time.Time, <-chan struct{}) {
	hash := hashOfUser(user)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[hash], *s.place(hash)
}

// set makes the JWTs of user that were issued until at not count any more.
func (s *signOuts) set(ctx context.Context, user mutlog.User, at time.Time) error {
	hash := hashOfUser(user)
	err := s.records.UpdateRecord(ctx, signOutKey(hash), func([]byte) ([]byte, error) {
		return strconv.AppendInt(nil, at.UnixMilli(), 10), nil
	})
	if err == nil {
		s.take(hash, at)
	}
	return err
}

func (s *signOuts) take(user userHash, at time.Time) {
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
		hash, err2 := hex.DecodeString(ownerOf(&r))
		if err := errors.Join(err, err2); err != nil || len(hash) != sha256.Size {
			return fmt.Errorf("%w: the sign-out of %s: %v", mutlog.ErrCorrupt, ownerOf(&r), err)
		}
		s.take(userHash(hash), time.UnixMilli(ms))
	}
	return nil
}
