package main

import (
	"context"
	"iter"
	"sync"

	"tidemark/mutlog"
)

// heads is a mutlog.Store that keeps nothing but the head of each log. Behind
// tidemark's own server it is the floor under what any store can cost: receiving
// a push, checking it, stamping it and answering.
type heads struct {
	mutlog.Store // what no push and no pull asks for is not there

	mu    sync.Mutex
	heads map[mutlog.User]mutlog.Timestamp
}

func newHeads() *heads { return &heads{heads: map[mutlog.User]mutlog.Timestamp{}} }

func (s *heads) head(user mutlog.User) mutlog.Timestamp {
	s.mu.Lock()
	defer s.mu.Unlock()
	if head, ok := s.heads[user]; ok {
		return head
	}
	return mutlog.Beginning
}

// View implements mutlog.Store.
func (s *heads) View(_ context.Context, user mutlog.User, fn func(mutlog.Reader) error) error {
	return fn(&headTx{store: s, user: user, head: s.head(user)})
}

// Update implements mutlog.Store. Like a real one it lets fn run beside others
// and again if the head has moved meanwhile.
func (s *heads) Update(_ context.Context, user mutlog.User, fn func(mutlog.Tx) error) error {
	for {
		tx := &headTx{store: s, user: user, head: s.head(user)}
		if err := fn(tx); err != nil || tx.appended == nil {
			return err
		}
		if s.move(user, tx.head, tx.appended.Head()) {
			return nil
		}
	}
}

func (s *heads) move(user mutlog.User, from, to mutlog.Timestamp) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if head, ok := s.heads[user]; ok && head != from {
		return false
	}
	s.heads[user] = to
	return true
}

// Users implements mutlog.Store.
func (s *heads) Users(context.Context, func(mutlog.User) error) error { return nil }

// Check implements mutlog.Store.
func (s *heads) Check(context.Context, func(string)) error { return nil }

// Close implements mutlog.Store.
func (s *heads) Close() error { return nil }

// Follow implements mutlog.Store; it has nobody to tell.
func (s *heads) Follow(ctx context.Context, _ func(mutlog.User, mutlog.Timestamp), _ func()) error {
	<-ctx.Done()
	return ctx.Err()
}

// headTx finds a head, and nothing else.
type headTx struct {
	mutlog.Tx // as above

	store    *heads
	user     mutlog.User
	head     mutlog.Timestamp
	appended *mutlog.Batch
}

func (tx *headTx) Head() (mutlog.Timestamp, error) { return tx.head, nil }

func (tx *headTx) Bounds() (mutlog.Bounds, error) { return mutlog.NoBounds, nil }

func (tx *headTx) Newest(refs []mutlog.Ref, _ mutlog.Timestamp) ([]*mutlog.Entry, error) {
	return make([]*mutlog.Entry, len(refs)), nil
}

func (tx *headTx) BatchByKey(string) (*mutlog.Batch, error) { return nil, nil }
func (tx *headTx) BatchesOn(mutlog.Timestamp) iter.Seq2[*mutlog.Batch, error] {
	return func(func(*mutlog.Batch, error) bool) {}
}
func (tx *headTx) Batches(mutlog.Timestamp, int) ([]*mutlog.Batch, error) { return nil, nil }

func (tx *headTx) Changes(_, until mutlog.Timestamp, _ int) ([]mutlog.Entry, mutlog.Timestamp, error) {
	return nil, until, nil
}

func (tx *headTx) History(_, until mutlog.Timestamp, _ int) ([]mutlog.Entry, mutlog.Timestamp, error) {
	return nil, until, nil
}

func (tx *headTx) Append(b *mutlog.Batch) error {
	tx.appended = b
	return nil
}
