package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"syscall"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"tidemark/mutlog"
)

// maxGroup bounds how many pushes share a transaction.
const maxGroup = 1024

// maxGroupBytes bounds the size of a group, but for its last batch.
const maxGroupBytes = 16 << 20

// errRaced: another batch was appended after the snapshot that a write rests on.
var errRaced = errors.New("the log has moved on")

// errFailed is what every call gets after a failure that only a restart clears.
var errFailed = fmt.Errorf("%w: it has failed", mutlog.ErrUnavailable)

// write is the batch that one push appends, if the head of its log is still
// previous and no log has got a gap since, or another change of the store, or
// both.
type write struct {
	user     prefix
	name     mutlog.User
	previous mutlog.Timestamp
	gaps     uint64 // see Bolt
	record   []byte
	place    place // but for the group

	// edit makes the other change in tx, or fails having changed nothing. What
	// becomes true with it is noted in c.
	edit func(s *Bolt, tx *bolt.Tx, c *commit) error

	done chan error
}

// edit hands a change that is not of one log to the committer, again and again
// while it is raced, and waits until it is on disk.
func (s *Bolt) edit(ctx context.Context, edit func(*Bolt, *bolt.Tx, *commit) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.commit(&write{edit: edit})
}

// isOfLog tells whether w rests on the state of one log.
func (w *write) isOfLog() bool { return w.user != prefix{} }

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
// lone push waits for nobody. In the end it folds what is recent, so that the
// store opens at once.
func (s *Bolt) commitLoop() {
	defer close(s.done)
	debug.SetPanicOnFault(true) // see tryCommit
	group := make([]*write, 0, maxGroup)
	for w := range s.queue {
		group = append(group[:0], w)
		size := len(w.record)
		for len(group) < maxGroup && size < maxGroupBytes && len(s.queue) > 0 {
			w := <-s.queue
			group = append(group, w)
			size += len(w.record)
		}
		s.commitGroup(group)
		clear(group)
	}
	for s.seal(1) {
		if s.tryCommit(nil, nil) != nil {
			return // what is not folded is read when the store is opened
		}
	}
}

// seal begins to fold if no fold is under way and there are at least n recent
// batches; it tells whether one is under way.
func (s *Bolt) seal(n int) bool {
	if s.fold == nil && s.recent.count >= n {
		s.recent.seal()
		s.fold = newFold(s.recent.sealed, s.lastGroup)
	}
	return s.fold != nil
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
	s.seal(s.foldBatches)
}

// tryCommit makes the writes of group durable and folds a part of the recent
// batches. results tells which writes were raced.
func (s *Bolt) tryCommit(group []*write, results []error) (err error) {
	if s.isFailed.Load() {
		return errFailed
	}
	defer func() {
		if r := recover(); r != nil {
			// bbolt panics when it meets a damaged page, and reading one that
			// the disk has lost faults.
			s.stuck.Store(true)
			s.fail()
			err = fmt.Errorf("%w: %v", mutlog.ErrOutcomeUnknown, r)
		}
	}()
	tx, err := s.db.Begin(true)
	if err != nil {
		return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	c, err := s.prepare(tx, group, results)
	if err != nil || c == nil {
		tx.Rollback()
		return err
	}
	if err := s.stillThere(tx); err != nil {
		tx.Rollback()
		s.fail()
		return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	if err := tx.Commit(); err != nil {
		return s.commitError(err)
	}
	if s.lastTransaction() != c.state.transaction {
		s.fail()
		return fmt.Errorf("%w: the file does not have what was written to it", mutlog.ErrOutcomeUnknown)
	}
	s.publish(c)
	return nil
}

// stillThere returns an error if the file was replaced, removed or cut short
// while it is open: a restart would not find what is written to it.
func (s *Bolt) stillThere(tx *bolt.Tx) error {
	info, err := os.Stat(s.path)
	switch {
	case err != nil:
		return err
	case !os.SameFile(info, s.file):
		return errors.New("another file has taken its place")
	case info.Size() < tx.Size():
		return errors.New("it was cut short")
	}
	return nil
}

// commit is what is true once a transaction is durable.
type commit struct {
	state  state
	group  uint64
	writes []*write // those of the group that were not raced
	places []place
	edited bool
	fold   *fold
	folded []prefix // users who were folded at once
	fences []fence  // all, if there is a new one
	gaps   bool     // a log has got a gap
}

// prepare puts into tx what is to be committed; nil if there is nothing.
func (s *Bolt) prepare(tx *bolt.Tx, group []*write, results []error) (*commit, error) {
	c := &commit{group: s.lastGroup, fold: s.fold}
	records := s.admit(tx, group, results, c)
	if len(records) == 0 && !c.edited && s.fold == nil {
		return nil, nil
	}
	unavailable := func(err error) error {
		if errors.Is(err, mutlog.ErrCorrupt) {
			s.fail() // no commit could fold that batch, nor do without
		}
		return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	hot, err := s.recent.foldHot(tx)
	if err != nil {
		return nil, unavailable(err)
	}
	c.folded = append(c.folded, hot...)
	if s.fold != nil {
		n := max(2*len(records), minFold)
		if group == nil {
			n = maxFold
		}
		if c.fold, err = s.fold.step(tx, s.recent, n); err != nil {
			return nil, unavailable(err)
		}
	}
	if len(records) > 0 {
		c.group++
		if err := putGroup(tx.Bucket(bucketGroups), c.group, records); err != nil {
			return nil, unavailable(err)
		}
	}
	c.state = state{transaction: tx.ID(), batches: s.state.batches + uint64(len(records))}
	if err := c.state.write(tx); err != nil {
		return nil, unavailable(err)
	}
	return c, nil
}

// How many batches one commit folds: twice as many as it brings, so that
// folding ends before the next batches are to be folded, or without pushes more.
const (
	minFold = 64
	maxFold = 4096
)

// admit returns the records of the writes that are not raced, and makes the
// edits.
func (s *Bolt) admit(tx *bolt.Tx, group []*write, results []error, c *commit) (records [][]byte) {
	taken := make(map[prefix]bool, len(group))
	for i, w := range group {
		if w.isOfLog() {
			if results[i] = s.raced(tx, w, taken); results[i] != nil {
				continue
			}
			taken[w.user] = true
		}
		if w.edit != nil {
			if results[i] = w.edit(s, tx, c); results[i] != nil {
				continue
			}
			c.edited = true
		}
		if w.record != nil {
			pl := w.place
			pl.group, pl.index, pl.tags = s.lastGroup+1, len(records), bytes.Clone(pl.tags)
			c.writes, c.places = append(c.writes, w), append(c.places, pl)
			records = append(records, w.record)
		}
	}
	return records
}

// raced returns errRaced if the log of w is not what w rests on.
func (s *Bolt) raced(tx *bolt.Tx, w *write, taken map[prefix]bool) error {
	head, err := s.head(tx, w.user)
	switch {
	case err != nil:
		return err // the log of this user is damaged; the others' are not
	case head != w.previous || taken[w.user] || w.gaps != s.gaps.Load():
		return errRaced
	}
	return nil
}

// head returns the head of the log of the user p.
func (s *Bolt) head(tx *bolt.Tx, p prefix) (mutlog.Timestamp, error) {
	sealed, active := s.recent.of(p)
	for _, recent := range [][]place{active, sealed} {
		if n := len(recent); n > 0 {
			return recent[n-1].head(), nil
		}
	}
	return newBoltTx(tx, p, nil, nil).Head()
}

// publish makes c, which is durable, known to readers.
func (s *Bolt) publish(c *commit) {
	s.state, s.lastGroup = c.state, c.group
	if s.fold != nil && c.fold == nil {
		s.recent.forget()
	}
	s.fold = c.fold
	s.recent.cool(c.folded)
	s.recent.publish(c.writes, c.places)
	if c.fences != nil {
		s.fences.Store(&c.fences)
	}
	if c.gaps {
		s.gaps.Add(1)
	}
	s.followers.tell(c.writes)
}

// commitError says what an error of a commit means. Without room nothing was
// changed, and there may be room again: that is plain unavailability. After any
// other error of a write or a sync the batch may be on disk or not, and the
// pages in memory may differ from those on disk: then only a restart can tell.
func (s *Bolt) commitError(err error) error {
	if noRoom(err) && s.lastTransaction() == s.state.transaction {
		return fmt.Errorf("%w: no room on the disk: %v", mutlog.ErrUnavailable, err)
	}
	s.fail()
	return fmt.Errorf("%w: %v", mutlog.ErrOutcomeUnknown, err)
}

// noRoom tells whether err, of a commit, says that the disk or a limit has no
// room for more.
func noRoom(err error) bool {
	for _, full := range []syscall.Errno{syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG} {
		// bbolt does not wrap the error of growing the file.
		if errors.Is(err, full) || strings.HasSuffix(err.Error(), full.Error()) {
			return true
		}
	}
	return errors.Is(err, bolterrors.ErrMaxSizeReached)
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
