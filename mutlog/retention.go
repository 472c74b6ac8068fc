package mutlog

import (
	"context"
	"time"
)

// Retention says for how long what no pull of a live cursor needs is kept (rule
// 19). 0 keeps it for ever.
type Retention struct {
	// History is for how long a mutation stays in the history after a later one
	// of its resource has superseded it.
	History time.Duration

	// Tombstones is for how long a deletion is told to devices that come back;
	// it is at least History.
	Tombstones time.Duration

	// Receipts is for how long a push that comes again is recognised, at least.
	Receipts time.Duration
}

// Pruning is what pruning a log came to.
type Pruning struct {
	Read    int // mutations that were looked at
	Dropped int // mutations
}

// pruneStep is about how many mutations one transaction reads and prunes, and
// garbageShare which part of a log must be garbage, a quarter, to be worth it:
// what is left is written anew, so that each byte dropped costs at most three.
const (
	pruneStep    = 250
	garbageShare = 4
)

// Prune prunes the log of user as of now, in small steps beside pushes and
// pulls, unless little of it would be dropped. Interrupted, it leaves a sound
// log. Meanwhile it needs 13 bytes of memory for each mutation that is old enough.
// pause is called between steps with how many mutations the last one read; its
// error ends the pruning.
func (r Retention) Prune(ctx context.Context, store Store, user User, now time.Time, pause func(read int) error) (done Pruning, err error) {
	p := r.pruner(now)
	if p.cut <= 0 {
		return done, nil
	}
	err = steps(pause, func(after Timestamp) (s *stretchOf, err error) {
		err = store.View(ctx, user, func(tx Reader) error {
			s, err = p.read(tx, after)
			return err
		})
		if s != nil && err == nil {
			done.Read += len(s.entries)
			p.aged.add(s)
		}
		return s, err
	})
	if err != nil || p.aged.garbage == 0 || p.aged.garbage*garbageShare < p.aged.bytes {
		return done, err
	}
	err = steps(pause, func(after Timestamp) (s *stretchOf, err error) {
		err = store.Update(ctx, user, func(tx Tx) error {
			s, err = p.prune(tx, after)
			return err
		})
		if s != nil && err == nil {
			done.Read += len(s.entries)
			done.Dropped += len(s.entries) - len(s.keep)
		}
		return s, err
	})
	return done, err
}

// steps calls step with the end of the stretch before, until there is no more.
func steps(pause func(read int) error, step func(after Timestamp) (*stretchOf, error)) error {
	for after := Beginning; ; {
		s, err := step(after)
		if err != nil || s == nil {
			return err
		}
		after = s.until
		if err := pause(len(s.entries)); err != nil {
			return err
		}
	}
}

// pruner prunes a log up to fixed points in time. It goes through all of the log
// from its beginning, so that of each resource the earliest mutations go first:
// a tombstone goes when nothing is left that it hides.
type pruner struct {
	cut        Timestamp // mutations up to this that are superseded up to this go
	tombstones Timestamp // tombstones up to this go
	aged       aged      // the mutations of the batches up to cut
}

func (r Retention) pruner(now time.Time) *pruner {
	if r.History <= 0 || r.Receipts <= 0 {
		return &pruner{cut: Beginning, tombstones: Beginning}
	}
	cut := Timestamp(now.Add(-max(r.History, r.Receipts)).UnixMilli())
	tombstones := Beginning
	if r.Tombstones > 0 {
		tombstones = min(cut, Timestamp(now.Add(-r.Tombstones).UnixMilli()))
	}
	return &pruner{cut: cut, tombstones: tombstones}
}

// stretchOf is a stretch of a log, of whole batches, and what is to be left of it.
type stretchOf struct {
	after, until Timestamp
	entries      []Entry
	expired      map[Timestamp]bool // tombstones that go
	keep         []Timestamp
	horizon      Timestamp // the newest tombstone that goes, or Beginning
}

// read reads the next stretch behind after; nil if there is none.
func (p *pruner) read(tx Reader, after Timestamp) (*stretchOf, error) {
	s := &stretchOf{after: after, until: after, horizon: Beginning}
	batches, err := tx.Batches(after, pruneStep)
	if err != nil {
		return nil, err
	}
	for _, b := range batches {
		if b.Head() > p.cut {
			break
		}
		s.until = b.Head()
		s.entries = append(s.entries, b.Entries...)
	}
	if len(s.entries) == 0 {
		return nil, nil
	}
	s.expired, err = p.expired(tx, s.entries)
	return s, err
}

// expired returns which of entries are tombstones that go: that are old enough,
// the newest of their resource, and not of the log.
func (p *pruner) expired(tx Reader, entries []Entry) (map[Timestamp]bool, error) {
	head, err := tx.Head()
	if err != nil {
		return nil, err
	}
	var refs []Ref
	var at []Timestamp
	for i := range entries {
		if e := &entries[i]; !e.Live() && e.Timestamp <= p.tombstones && e.Timestamp < head {
			refs, at = append(refs, e.Ref()), append(at, e.Timestamp)
		}
	}
	if refs == nil {
		return nil, nil
	}
	newest, err := tx.Newest(refs, head)
	if err != nil {
		return nil, err
	}
	gone := make(map[Timestamp]bool, len(refs))
	for i, t := range at {
		gone[t] = newest[i] != nil && newest[i].Timestamp == t
	}
	return gone, nil
}

// size returns about how many bytes e takes.
func (e *Entry) size() int {
	return 64 + len(e.Resource) + len(e.ResourceID) + len(e.Data) + len(e.State)
}

// prune prunes the next stretch behind after; nil if there is none.
func (p *pruner) prune(tx Tx, after Timestamp) (*stretchOf, error) {
	s, err := p.read(tx, after)
	if err != nil || s == nil {
		return s, err
	}
	for i := range s.entries {
		switch t := s.entries[i].Timestamp; {
		case p.aged.isSuperseded(t):
		case s.expired[t]:
			s.horizon = max(s.horizon, t)
		default:
			s.keep = append(s.keep, t)
		}
	}
	if len(s.keep) == len(s.entries) {
		return s, nil
	}
	bounds, err := tx.Bounds()
	if err != nil {
		return nil, err
	}
	bounds.Pruned, bounds.Horizon = max(bounds.Pruned, s.until), max(bounds.Horizon, s.horizon)
	if err := tx.SetBounds(bounds); err != nil {
		return nil, err
	}
	return s, tx.Prune(s.after, s.until, s.keep)
}
