package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

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

var (
	// errUnfolded: an edit needs all folded that it is about.
	errUnfolded = errors.New("it is not folded")

	// errNothing: there is nothing to change.
	errNothing = errors.New("there is nothing to do")

	// errSpoilt: an edit has failed half way.
	errSpoilt = errors.New("the transaction is to be undone")
)

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

	onHead   bool // it rests on previous; else on no more than its edits see
	bounds   *mutlog.Bounds
	thorough bool // what the edits drop is to be gone from the file at once

	edits []edit

	done chan error
}

// edit is a part of a change of the store. check, if there is one, fails if that
// is not to be made, or not now; apply makes it, once no part of the change has
// failed so, and notes in c what becomes true with it. If it fails, the whole
// transaction is undone.
type edit struct {
	check func(s *Bolt, tx *bolt.Tx, c *commit) error
	apply func(s *Bolt, tx *bolt.Tx, c *commit) error
}

// edit hands a change that is not of one log to the committer and waits until it
// is on disk, or raced.
func (s *Bolt) edit(ctx context.Context, change edit) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.commit(&write{edits: []edit{change}})
}

// foldAll folds all that is recent, in steps.
func (s *Bolt) foldAll(ctx context.Context) (err error) {
	upTo := uint64(0)
	step := edit{
		check: func(s *Bolt, _ *bolt.Tx, _ *commit) error {
			if upTo == 0 {
				upTo = s.lastGroup
			}
			if s.folded >= upTo {
				return errNothing
			}
			return nil
		},
		apply: func(_ *Bolt, _ *bolt.Tx, c *commit) error {
			c.foldAll = true
			return nil
		},
	}
	for err == nil {
		err = s.edit(ctx, step)
	}
	if err == errNothing {
		err = nil
	}
	return err
}

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
	begun := time.Now()
	tx, err := s.db.Begin(true)
	if err != nil {
		return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	c, err := s.prepare(tx, group, results)
	if err == errSpoilt {
		tx.Rollback()
		for i := range results { // the others try again
			results[i] = cmp.Or(results[i], errRaced)
		}
		return nil
	}
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
	if s.committed != nil {
		stats := tx.Stats()
		s.committed(Commit{len(c.writes), time.Since(begun), stats.GetWriteTime()})
	}
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
	state   state
	group   uint64
	writes  []*write // those of the group that append and were not raced
	places  []place
	fold    *fold
	folded  []prefix // users who were folded at once
	fences  []fence  // all, if there is a new one
	gaps    bool     // a log has got a gap
	cleaned uint64   // see Bolt

	// While it is prepared:
	nextGroup uint64
	records   [][]byte // of nextGroup
	dropped   int      // batches
	edited    bool
	foldAll   bool
	wasted    map[uint64]int // bytes of groups, by an edit
}

// prepare puts into tx what is to be committed; nil if there is nothing.
func (s *Bolt) prepare(tx *bolt.Tx, group []*write, results []error) (*commit, error) {
	c := &commit{group: s.lastGroup, cleaned: s.cleaned, nextGroup: s.lastGroup + 1}
	if err := s.admit(tx, group, results, c); err != nil {
		return nil, err
	}
	if len(c.records) == 0 && !c.edited && s.fold == nil {
		return nil, nil
	}
	unavailable := func(err error) error {
		if errors.Is(err, mutlog.ErrCorrupt) {
			s.fail() // no commit could fold that batch, nor do without
		}
		return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	if err := s.foldSome(tx, group, c); err != nil {
		return nil, unavailable(err)
	}
	if len(c.records) > 0 {
		c.group = c.nextGroup
		if err := putGroup(tx.Bucket(bucketGroups), c.group, c.records); err != nil {
			return nil, unavailable(err)
		}
	}
	c.state = state{transaction: tx.ID(), batches: s.state.batches + uint64(len(c.records)) - uint64(c.dropped)}
	if err := c.state.write(tx); err != nil {
		return nil, unavailable(err)
	}
	return c, nil
}

// foldSome folds the users who are to be folded at once, and a part of what is
// being folded.
func (s *Bolt) foldSome(tx *bolt.Tx, group []*write, c *commit) error {
	hot, err := s.recent.foldHot(tx, c)
	if err != nil {
		return err
	}
	c.folded = append(c.folded, hot...)
	if c.foldAll && s.fold == nil {
		s.recent.seal()
		s.fold = newFold(s.recent.sealed, s.lastGroup)
	}
	if s.fold == nil {
		return nil
	}
	n := max(2*len(c.records), minFold)
	if group == nil || c.foldAll {
		n = maxFold
	}
	c.fold, err = s.fold.step(tx, c, s.recent, n)
	return err
}

// How many batches one commit folds: twice as many as it brings, so that
// folding ends before the next batches are to be folded, or without pushes more.
const (
	minFold = 64
	maxFold = 4096
)

// admit makes the edits of the writes that are not raced, and adds their records.
func (s *Bolt) admit(tx *bolt.Tx, group []*write, results []error, c *commit) error {
	taken := make(map[prefix]bool, len(group))
	for i, w := range group {
		if w.onHead {
			if results[i] = s.raced(tx, w, taken); results[i] != nil {
				continue
			}
			taken[w.user] = true
		}
		if results[i] = s.check(tx, w, c); results[i] != nil {
			continue
		}
		if results[i] = s.apply(tx, w, c); results[i] != nil {
			return errSpoilt
		}
		if w.record != nil {
			pl := w.place
			pl.group, pl.index = c.add(w.record)
			pl.tags = bytes.Clone(pl.tags)
			c.writes, c.places = append(c.writes, w), append(c.places, pl)
		}
	}
	return nil
}

// check checks the edits of w.
func (s *Bolt) check(tx *bolt.Tx, w *write, c *commit) error {
	for _, e := range w.edits {
		if e.check == nil {
			continue
		}
		if err := e.check(s, tx, c); err != nil {
			return err
		}
	}
	return nil
}

// apply makes the edits of w in tx.
func (s *Bolt) apply(tx *bolt.Tx, w *write, c *commit) error {
	for _, e := range w.edits {
		if err := e.apply(s, tx, c); err != nil {
			return err
		}
		c.edited = true
	}
	if len(c.wasted) == 0 {
		return nil
	}
	return s.collect(tx, c, w.thorough)
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
	s.state, s.lastGroup, s.cleaned = c.state, c.group, c.cleaned
	if s.fold != nil && c.fold == nil {
		s.recent.forget()
		s.folded = s.fold.upTo
		s.folds.Add(1)
	}
	s.fold = c.fold
	if len(c.folded) > 0 {
		s.recent.cool(c.folded)
		s.folds.Add(1)
	}
	s.recent.publish(c.writes, c.places)
	if c.fences != nil {
		s.fences.Store(&c.fences)
	}
	if c.gaps {
		s.gaps.Add(1)
	}
	if c.edited {
		s.kept.forget()
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
