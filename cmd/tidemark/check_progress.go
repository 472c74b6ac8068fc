package main

import (
	"context"
	"os"

	"tidemark/mutlog"
	"tidemark/store"
)

// progressFile is the file descriptor on which the worker of a check says how far
// it has come: the stderr of its parent, which itself keeps what the worker says
// on stderr.
const progressFile = 3

// counted returns s as a check should read it, so that it is told how many
// batches have been checked, until end is called.
func (c *checkCommand) counted(s store.Store, io streams) (counted mutlog.Store, end func()) {
	out := io.err
	if c.Worker {
		if !c.Progress {
			return s, func() {}
		}
		out = os.NewFile(progressFile, "progress")
	}
	counter := &countingStore{Store: s, meter: newMeter(out, "checking", "batches")}
	if bolt, ok := s.(*store.Bolt); ok {
		if sum, err := bolt.Summary(); err == nil { // else nobody knows
			counter.total = int64(sum.Batches)
		}
	}
	return counter, counter.meter.end
}

// countingStore tells a meter how many batches have been read.
type countingStore struct {
	mutlog.Store
	meter       *meter
	done, total int64
}

// View implements mutlog.Store.
func (s *countingStore) View(ctx context.Context, user mutlog.User, fn func(mutlog.Reader) error) error {
	return s.Store.View(ctx, user, func(tx mutlog.Reader) error { return fn(&countingReads{tx, s}) })
}

type countingReads struct {
	mutlog.Reader
	store *countingStore
}

// Batches implements mutlog.Reader. A check that goes through a log asks for
// many, and where it looks back, for one.
func (r *countingReads) Batches(after mutlog.Timestamp, n int) ([]*mutlog.Batch, error) {
	batches, err := r.Reader.Batches(after, n)
	if n > 1 {
		r.store.done += int64(len(batches))
		r.store.meter.report(r.store.done, r.store.total)
	}
	return batches, err
}
