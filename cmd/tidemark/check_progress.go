package main

import (
	"context"
	"os"

	"tidemark/backup"
	"tidemark/mutlog"
	"tidemark/store"
)

// progressFile is the file descriptor on which the worker of a check says how far
// it has come: the stderr of its parent, which itself keeps what the worker says
// on stderr.
const progressFile = 3

// batchesOf returns how many batches a store has, or 0 if nobody knows.
func batchesOf(ctx context.Context, s store.Store) int64 {
	switch s := s.(type) {
	case *store.Bolt:
		sum, _ := s.Summary()
		return int64(sum.Batches)
	case *store.Postgres:
		n, _ := s.CountAllBatches(ctx)
		return n
	}
	return 0
}

// counted returns s as a check should read it, so that it is told how many
// batches have been checked, until end is called.
func (c *checkCommand) counted(ctx context.Context, s store.Store, io streams) (counted mutlog.Store, end func()) {
	out := io.err
	if c.Worker {
		if !c.Progress {
			return s, func() {}
		}
		out = os.NewFile(progressFile, "progress")
	}
	meter, total := newMeter(out, "checking", "batches"), batchesOf(ctx, s)
	return &backup.Counted{Store: s, Read: func(batches int64) { meter.report(batches, total) }}, meter.end
}
