// Package mutlogtest is support for tests only: a store that is too simple to
// be wrong, a model of the rules, and random devices. No program imports it.
package mutlogtest

import (
	"bytes"
	"context"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"

	"tidemark/mutlog"
)

// Store keeps the logs in memory as slices of batches and finds everything by
// going through them from the start. It keeps the contract of mutlog.Store but
// for durability, and is what real stores are compared with.
type Store struct {
	mu        sync.Mutex // guards the fields
	updating  sync.Mutex // held during an update: they are serialised
	logs      map[mutlog.User]userLog
	users     []mutlog.User
	fences    []mutlog.Timestamp
	records   map[mutlog.RecordKey][]byte
	followers map[*follower]bool
}

// userLog is one state of the log of one user.
type userLog struct {
	batches []*mutlog.Batch
	bounds  mutlog.Bounds
	pruned  map[*mutlog.Batch]bool // what pruning has left
}

// NewStore returns a store without logs.
func NewStore() *Store {
	return &Store{logs: map[mutlog.User]userLog{}, records: map[mutlog.RecordKey][]byte{}, followers: map[*follower]bool{}}
}

// View implements mutlog.Store.
func (s *Store) View(ctx context.Context, user mutlog.User, fn func(mutlog.Reader) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return fn(reader{s.log(user)})
}

// Update implements mutlog.Store.
func (s *Store) Update(ctx context.Context, user mutlog.User, fn func(mutlog.Tx) error) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	before := s.log(user)
	tx := &tx{reader: reader{before}, after: before}
	if err := fn(tx); err != nil || !tx.changed {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(before.batches) == 0 && len(tx.after.batches) > 0 {
		s.users = append(s.users, user)
	}
	s.logs[user] = tx.after
	old, _ := tx.Head()
	if head, _ := (reader{tx.after}).Head(); head > old {
		s.tell(user, head)
	}
	return nil
}

// log returns the log of user as it is now; appending leaves it as it is.
func (s *Store) log(user mutlog.User) userLog {
	s.mu.Lock()
	defer s.mu.Unlock()
	log, found := s.logs[user]
	if !found {
		log.bounds = mutlog.NoBounds
		for _, at := range s.fences {
			log.bounds.Gaps = append(log.bounds.Gaps, mutlog.Gap{After: mutlog.Beginning, Until: at})
		}
	}
	log.batches = slices.Clip(log.batches)
	return log
}

// Fence implements mutlog.Store.
func (s *Store) Fence(_ context.Context, at mutlog.Timestamp) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fences = append(s.fences, at)
	for user, log := range s.logs {
		if head, _ := (reader{log}).Head(); head < at {
			log.bounds.Gaps = append(slices.Clone(log.bounds.Gaps), mutlog.Gap{After: head, Until: at})
		}
		s.logs[user] = log
	}
	return nil
}

// Users implements mutlog.Store.
func (s *Store) Users(_ context.Context, fn func(mutlog.User) error) error {
	s.mu.Lock()
	users := s.users[:len(s.users):len(s.users)]
	s.mu.Unlock()
	for _, user := range users {
		if err := fn(user); err != nil {
			return err
		}
	}
	return nil
}

// Check implements mutlog.Store.
func (s *Store) Check(context.Context, func(string)) error { return nil }

// Close implements mutlog.Store.
func (s *Store) Close() error { return nil }

// reader is the log of one user.
type reader struct{ userLog }

// tx is a reader and the log as it is to be.
type tx struct {
	reader
	after   userLog
	changed bool
}

// Append implements mutlog.Tx.
func (t *tx) Append(b *mutlog.Batch) error {
	t.changed = true
	left := clone(b)
	t.after.batches = append(t.after.batches, left)
	if b.Head() <= t.after.bounds.Pruned {
		t.after.pruned = maps.Clone(t.after.pruned)
		if t.after.pruned == nil {
			t.after.pruned = map[*mutlog.Batch]bool{}
		}
		t.after.pruned[left] = true
	}
	return nil
}

// SetBounds implements mutlog.Tx.
func (t *tx) SetBounds(bounds mutlog.Bounds) error {
	t.changed = true
	t.after.bounds = bounds
	t.after.bounds.Gaps = slices.Clone(bounds.Gaps)
	return nil
}

// Head implements mutlog.Reader.
func (r reader) Head() (mutlog.Timestamp, error) {
	if len(r.batches) == 0 {
		return mutlog.Beginning, nil
	}
	return r.batches[len(r.batches)-1].Head(), nil
}

// Bounds implements mutlog.Reader.
func (r reader) Bounds() (mutlog.Bounds, error) {
	bounds := r.bounds
	bounds.Gaps = slices.Clone(bounds.Gaps)
	return bounds, nil
}

// Newest implements mutlog.Reader.
func (r reader) Newest(refs []mutlog.Ref, at mutlog.Timestamp) ([]*mutlog.Entry, error) {
	newest := make([]*mutlog.Entry, len(refs))
	entries := r.entries(mutlog.Beginning, at)
	for i, ref := range refs {
		for _, e := range entries {
			if e.Ref() == ref {
				newest[i] = &e
			}
		}
		if newest[i] != nil {
			*newest[i] = CloneEntry(*newest[i])
		}
	}
	return newest, nil
}

// BatchByKey implements mutlog.Reader.
func (r reader) BatchByKey(key string) (*mutlog.Batch, error) {
	for _, b := range r.batches {
		if b.Key == key && !r.pruned[b] {
			return clone(b), nil
		}
	}
	return nil, nil
}

// BatchesOn implements mutlog.Reader.
func (r reader) BatchesOn(base mutlog.Timestamp) iter.Seq2[*mutlog.Batch, error] {
	return func(yield func(*mutlog.Batch, error) bool) {
		for _, b := range r.batches {
			if b.Key == "" && b.Base == base && !r.pruned[b] && !yield(clone(b), nil) {
				return
			}
		}
	}
}

// All returns all that seq yields up to its first error.
func All[T any](seq iter.Seq2[T, error]) (all []T, err error) {
	for v, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, v)
	}
	return all, nil
}

// Batches implements mutlog.Reader.
func (r reader) Batches(after mutlog.Timestamp, n int) (batches []*mutlog.Batch, err error) {
	for _, b := range r.batches {
		if b.Head() > after && n > 0 {
			batches = append(batches, clone(b))
			n -= len(b.Entries)
		}
	}
	return batches, nil
}

// Changes implements mutlog.Reader.
func (r reader) Changes(after, until mutlog.Timestamp, n int) (changes []mutlog.Entry, upTo mutlog.Timestamp, err error) {
	upTo = until
	newest := map[mutlog.Ref]mutlog.Timestamp{}
	entries := r.entries(after, until)
	for i, e := range entries {
		newest[e.Ref()] = e.Timestamp
		if i == n-1 && i < len(entries)-1 {
			upTo = e.Timestamp
		}
	}
	for _, e := range entries {
		if e.Timestamp <= upTo && e.Timestamp == newest[e.Ref()] {
			changes = append(changes, CloneEntry(e))
		}
	}
	return changes, upTo, nil
}

// History implements mutlog.Reader.
func (r reader) History(after, until mutlog.Timestamp, n int) (history []mutlog.Entry, upTo mutlog.Timestamp, err error) {
	entries := r.entries(after, until)
	if upTo = until; len(entries) > n {
		entries = entries[:n]
		upTo = entries[n-1].Timestamp
	}
	for _, e := range entries {
		history = append(history, CloneEntry(e))
	}
	return history, upTo, nil
}

// entries returns the mutations later than after and not later than until.
func (r reader) entries(after, until mutlog.Timestamp) (entries []mutlog.Entry) {
	for _, b := range r.batches {
		for _, e := range b.Entries {
			if after < e.Timestamp && e.Timestamp <= until {
				entries = append(entries, e)
			}
		}
	}
	return entries
}

// clone returns b in memory of its own.
func clone(b *mutlog.Batch) *mutlog.Batch {
	c := *b
	c.Live = maps.Clone(b.Live)
	c.Entries = make([]mutlog.Entry, len(b.Entries))
	for i, e := range b.Entries {
		c.Entries[i] = CloneEntry(e)
	}
	return &c
}

// CloneEntry returns e in memory of its own.
func CloneEntry(e mutlog.Entry) mutlog.Entry {
	e.Resource, e.ResourceID = strings.Clone(e.Resource), strings.Clone(e.ResourceID)
	e.Data, e.State = bytes.Clone(e.Data), bytes.Clone(e.State)
	return e
}
