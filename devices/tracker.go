package devices

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"tidemark/mutlog"
)

// Records is what a tracker needs of a mutlog.Store.
type Records interface {
	View(ctx context.Context, user mutlog.User, fn func(mutlog.Reader) error) error
	Record(ctx context.Context, key mutlog.RecordKey) ([]byte, error)
	UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func(old []byte) ([]byte, error)) error
}

// Tracker keeps what was seen of devices in memory, and adds it to what the
// records of the store say now and then. Servers on one store have one each.
type Tracker struct {
	records Records
	logger  *slog.Logger

	// Now is the clock.
	Now func() time.Time

	seed   maphash.Seed
	shards [shards]shard
	full   chan struct{} // asks for a flush

	flushing sync.Mutex
}

// shard is a part of the users, so that not all requests wait for one lock.
type shard struct {
	mu    sync.Mutex
	users map[mutlog.User][]Device
}

const (
	shards = 16

	// maxUsers bounds how many users of a shard are in memory.
	maxUsers = 2048

	// flushEvery is how often what was seen is written: rare enough to cost
	// nothing, often enough that a crash forgets little.
	flushEvery = 5 * time.Minute

	// flushWidth is how many records are written at a time, so that they share
	// commits.
	flushWidth = 64
)

// NewTracker returns a tracker that keeps its records in a store.
func NewTracker(records Records, logger *slog.Logger) *Tracker {
	t := &Tracker{records: records, logger: logger, Now: time.Now, seed: maphash.MakeSeed(), full: make(chan struct{}, 1)}
	for i := range t.shards {
		t.shards[i].users = map[mutlog.User][]Device{}
	}
	return t
}

func (t *Tracker) shard(user mutlog.User) *shard {
	return &t.shards[maphash.String(t.seed, string(user))%shards]
}

// Seen notes a request of a device. It is quick, and keeps nothing of its
// arguments but e.Refusal.
func (t *Tracker) Seen(user mutlog.User, client string, e Event) {
	now := t.Now().UTC().Truncate(time.Millisecond)
	if e.Refusal != nil {
		e.Refusal.At = now
	}
	s := t.shard(user)
	s.mu.Lock()
	defer s.mu.Unlock()
	list, known := s.users[user]
	for i := range list {
		if list[i].Client == client {
			list[i].add(&e, now)
			return
		}
	}
	if !known && len(s.users) >= maxUsers || len(list) >= maxDevices {
		select {
		case t.full <- struct{}{}:
		default:
		}
		return
	}
	// What is kept must not keep the headers of a request with it.
	d := Device{Client: strings.Clone(client), FirstSeen: now}
	d.add(&e, now)
	if !known {
		user = mutlog.User(strings.Clone(string(user)))
	}
	s.users[user] = append(list, d)
}

// Run writes what was seen now and then, until ctx is done, and a last time
// then.
func (t *Tracker) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
			defer cancel()
			t.Flush(last)
			return
		case <-time.After(flushEvery):
		case <-t.full:
		}
		t.Flush(ctx)
	}
}

// lastFlush bounds how long the end of a server waits for this.
const lastFlush = 3 * time.Second

// Flush adds what was seen to the records. What cannot be written is forgotten.
func (t *Tracker) Flush(ctx context.Context) {
	t.flushing.Lock()
	defer t.flushing.Unlock()
	var group errgroup.Group
	group.SetLimit(flushWidth)
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		users := s.users
		s.users = make(map[mutlog.User][]Device, len(users))
		s.mu.Unlock()
		for user, seen := range users {
			group.Go(func() error { return t.write(ctx, user, seen) })
		}
	}
	if err := group.Wait(); err != nil {
		t.logger.Warn("what was seen of devices is not kept", "error", err)
	}
}

// key is where the devices of a user are kept: one record, a JSON array.
func key(user mutlog.User) mutlog.RecordKey {
	return mutlog.RecordKey{Kind: "device", Owner: string(user)}
}

func (t *Tracker) write(ctx context.Context, user mutlog.User, seen []Device) error {
	err := t.records.UpdateRecord(ctx, key(user), func(old []byte) ([]byte, error) {
		known, err := decode(old)
		if err != nil {
			known = nil // better what is seen now than nothing any more
		}
		return json.Marshal(merge(known, seen))
	})
	if err != nil {
		return err
	}
	return t.dropErased(ctx, user)
}

// dropErased removes from the record what was seen of a user before an erasure,
// which another server may have made since. It comes after the writing: an
// erasure that is not in the bounds by now has yet to come to the records.
func (t *Tracker) dropErased(ctx context.Context, user mutlog.User) error {
	erased := mutlog.Beginning
	err := t.records.View(ctx, user, func(tx mutlog.Reader) error {
		bounds, err := tx.Bounds()
		for _, gap := range bounds.Gaps {
			if gap.After == mutlog.Beginning {
				erased = max(erased, gap.Until)
			}
		}
		return err
	})
	if err != nil || erased == mutlog.Beginning {
		return err
	}
	return t.records.UpdateRecord(ctx, key(user), func(old []byte) ([]byte, error) {
		known, err := decode(old)
		left := slices.DeleteFunc(known, func(d Device) bool { return d.LastSeen.UnixMilli() <= int64(erased) })
		if err != nil || len(left) == 0 {
			return nil, nil
		}
		return json.Marshal(left)
	})
}

// Devices returns what is known of the devices of a user, those that were seen
// last first.
func (t *Tracker) Devices(ctx context.Context, user mutlog.User) ([]Device, error) {
	t.flushing.Lock() // or some of it would be on its way
	defer t.flushing.Unlock()
	record, err := t.records.Record(ctx, key(user))
	if err != nil {
		return nil, err
	}
	known, err := decode(record)
	if err != nil {
		return nil, fmt.Errorf("the devices of %q: %w", user, err)
	}
	s := t.shard(user)
	s.mu.Lock()
	defer s.mu.Unlock()
	return merge(known, s.users[user]), nil
}

func decode(record []byte) (known []Device, err error) {
	if record == nil {
		return nil, nil
	}
	return known, json.Unmarshal(record, &known)
}

// Forget forgets what was seen of a user and is not in the records yet, before
// those are erased.
func (t *Tracker) Forget(user mutlog.User) {
	t.flushing.Lock()
	defer t.flushing.Unlock()
	s := t.shard(user)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.users, user)
}
