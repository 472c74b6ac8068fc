package main

import (
	"os"

	"tidemark/backup"
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
	meter, total := newMeter(out, "checking", "batches"), int64(0) // or nobody knows
	if bolt, ok := s.(*store.Bolt); ok {
		if sum, err := bolt.Summary(); err == nil {
			total = int64(sum.Batches)
		}
	}
	return &backup.Counted{Store: s, Read: func(batches int64) { meter.report(batches, total) }}, meter.end
}
