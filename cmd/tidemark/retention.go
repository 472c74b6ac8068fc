package main

import (
	"log/slog"
	"sync/atomic"
	"time"

	"tidemark/mutlog"
	"tidemark/telemetry"
)

// retentionFlags say for how long what no device needs is kept.
type retentionFlags struct {
	HistoryRetention   time.Duration `help:"How long the history keeps a mutation that a later one supersedes; 0 for ever." default:"2160h"`
	TombstoneRetention time.Duration `help:"How long a deletion is kept, at least as long as the history: a device that was away for longer takes a snapshot; 0 for ever." default:"8760h"`
	ReceiptRetention   time.Duration `help:"How long a push that comes again is recognised, at least; 0 for ever, and then nothing is pruned." default:"720h"`
}

func (f *retentionFlags) validate() error {
	for _, d := range []time.Duration{f.HistoryRetention, f.TombstoneRetention, f.ReceiptRetention} {
		if d != 0 && d < leastRetention {
			return usageError("a retention must be 0 or at least %s", leastRetention)
		}
	}
	return nil
}

// leastRetention is longer than any pull takes that is to see one state.
const leastRetention = time.Hour

// How often all logs are looked at, and how fast.
const (
	retentionEvery = time.Hour
	retentionRate  = 20_000 // mutations in a second
)

// upkeepHealth remembers whether the last round of retention could go on.
type upkeepHealth struct{ failing atomic.Bool }

// worry says so if it could not.
func (h *upkeepHealth) worry() string {
	if h.failing.Load() {
		return "retention: the last round failed"
	}
	return ""
}

// janitor returns what prunes the logs of s, and counts that in figures.
func (f *retentionFlags) janitor(s mutlog.Store, figures *telemetry.Metrics, health *upkeepHealth, logger *slog.Logger) *mutlog.Janitor {
	return &mutlog.Janitor{
		Store:     s,
		Retention: mutlog.Retention{History: f.HistoryRetention, Tombstones: f.TombstoneRetention, Receipts: f.ReceiptRetention},
		Every:     retentionEvery,
		Rate:      retentionRate,
		Now:       time.Now,
		Done: func(user mutlog.User, done mutlog.Pruning, err error) {
			figures.Pruned(done, err)
			if err == nil || user == "" { // one log that cannot be pruned does not hold up the others
				health.failing.Store(err != nil)
			}
			switch {
			case err != nil:
				logger.Warn("pruning failed", "user", user, "error", err)
			case done.Dropped > 0:
				logger.Debug("pruned", "user", user, "read", done.Read, "dropped", done.Dropped)
			}
		},
	}
}
