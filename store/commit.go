package store

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"tidemark/mutlog"
)

// maxGroup bounds how many pushes share a transaction.
const maxGroup = 1024

// errRaced: another batch was appended after the snapshot that a write rests on.
var errRaced = errors.New("the log has moved on")

// errFailed is what every call gets after a failure that only a restart clears.
var errFailed = fmt.Errorf("%w: it has failed", mutlog.ErrUnavailable)

// write is what one push puts into the file, if the head of its log is still
// previous.
type write struct {
	user     mutlog.User
	previous mutlog.Timestamp
	puts     []keyValue
	done     chan error
}

type keyValue struct{ key, value []byte }

func (w *write) put(key, value []byte) { w.puts = append(w.puts, keyValue{key, value}) }

// commit hands w to the committer and waits until it is on disk.
func (s *Bolt) commit(w *write) error {
	w.done = make(chan error, 1)
	if err := s.enqueue(w); err != nil {
		return err
	}
	return <-w.done
}

func (s *Bolt) enqueue(w *write) error {
	s.stopping.RLock()
	defer s.stopping.RUnlock()
	if s.stopped || s.queue == nil {
		return fmt.Errorf("%w: it is closed or read only", mutlog.ErrUnavailable)
	}
	select {
	case s.queue <- w:
		return nil
	default:
		return fmt.Errorf("%w: %d pushes are waiting for the disk", mutlog.ErrUnavailable, cap(s.queue))
	}
}

// commitLoop commits all pushes that wait, of whatever users, in one
// transaction, and with it one pair of disk syncs; meanwhile the next gather. A
// lone push waits for nobody.
func (s *Bolt) commitLoop() {
	defer close(s.done)
	group := make([]*write, 0, maxGroup)
	for w := range s.queue {
		group = append(group[:0], w)
		for len(group) < maxGroup && len(s.queue) > 0 {
			group = append(group, <-s.queue)
		}
		s.commitGroup(group)
		clear(group)
	}
}

// commitGroup answers every write of group, after its data is on disk.
func (s *Bolt) commitGroup(group []*write) {
	results := make([]error, len(group))
	err := s.tryCommit(group, results)
	for i, w := range group {
		if err != nil {
			results[i] = err
		}
		w.done <- results[i]
	}
}

func (s *Bolt) tryCommit(group []*write, results []error) (err error) {
	if s.isFailed.Load() {
		return errFailed
	}
	tx, err := s.db.Begin(true)
	if err != nil {
		return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	defer func() {
		if r := recover(); r != nil {
			// bbolt panics when it meets a damaged page.
			tx.Rollback()
			s.fail()
			err = fmt.Errorf("%w: %v", mutlog.ErrOutcomeUnknown, r)
		}
	}()
	before := tx.ID() - 1
	if err := apply(tx, group, results); err != nil {
		tx.Rollback()
		return err
	}
	if err := tx.Commit(); err != nil {
		return s.commitError(err, before)
	}
	s.durable.reach(before + 1)
	return nil
}

// apply puts the writes of group into tx; results tells which were raced.
func apply(tx *bolt.Tx, group []*write, results []error) error {
	logs := tx.Bucket(bucketLogs)
	for i, w := range group {
		user := newBoltTx(logs, w.user)
		head, err := user.Head()
		switch {
		case err != nil:
			results[i] = err // the log of this user is damaged; the others' are not
		case head != w.previous:
			results[i] = errRaced
		default:
			for _, kv := range w.puts {
				if err := logs.Put(kv.key, kv.value); err != nil {
					return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
				}
			}
		}
	}
	return nil
}

// commitError says what an error of a commit means. Without room nothing was
// changed, and there may be room again: that is plain unavailability. After any
// other error of a write or a sync the batch may be on disk or not, and the
// pages in memory may differ from those on disk: then only a restart can tell.
// before is the transaction that the file held before the commit.
func (s *Bolt) commitError(err error, before int) error {
	noRoom := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		errors.Is(err, syscall.EFBIG) || errors.Is(err, bolterrors.ErrMaxSizeReached)
	if noRoom && s.lastTransaction() == before {
		return fmt.Errorf("%w: no room on the disk: %v", mutlog.ErrUnavailable, err)
	}
	s.fail()
	return fmt.Errorf("%w: %v", mutlog.ErrOutcomeUnknown, err)
}

// lastTransaction returns the number of the newest transaction in the file.
func (s *Bolt) lastTransaction() int {
	tx, err := s.db.Begin(false)
	if err != nil {
		return -1
	}
	defer tx.Rollback()
	return tx.ID()
}

// durable knows the newest transaction that is on disk for certain.
type durable struct {
	id      atomic.Int64
	mu      sync.Mutex
	changed sync.Cond // of id or failed
	failed  bool
}

func newDurable() *durable {
	d := &durable{}
	d.changed.L = &d.mu
	return d
}

// reach records that transaction id is durable.
func (d *durable) reach(id int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.id.Store(int64(id))
	d.changed.Broadcast()
}

// giveUp records that no other transaction will be.
func (d *durable) giveUp() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = true
	d.changed.Broadcast()
}

// wait returns once transaction id is durable, or errFailed if that is not to
// be known.
func (d *durable) wait(id int) error {
	if int64(id) <= d.id.Load() {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for int64(id) > d.id.Load() {
		if d.failed {
			return errFailed
		}
		d.changed.Wait()
	}
	return nil
}
