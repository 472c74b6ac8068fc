package webhook

import (
	"sync/atomic"
	"time"

	"tidemark/mutlog"
)

// Stats are the figures of a hook. All but Waiting count since the start.
type Stats struct {
	Waiting   int   // messages that wait to be taken, those being sent among them
	Delivered int64 // messages that were taken
	Failures  int64 // requests that failed
	Dropped   int64 // heads that there was no room for, and messages given up
}

// counters are those of Stats that count.
type counters struct{ delivered, failures, dropped atomic.Int64 }

// Stats returns the figures of the hook.
func (h *Hook) Stats() Stats {
	return Stats{h.queue.size(), h.counters.delivered.Load(), h.counters.failures.Load(), h.counters.dropped.Load()}
}

// warnEvery is how often the log is told of one kind of trouble: a receiver that
// is down fails with each message.
const warnEvery = time.Minute

// seldom lets through one in warnEvery.
type seldom struct{ last atomic.Int64 }

func (s *seldom) now() bool {
	now, last := time.Now().UnixNano(), s.last.Load()
	return now-last >= int64(warnEvery) && s.last.CompareAndSwap(last, now)
}

// drop notes that a head is not told.
func (h *Hook) drop() {
	h.counters.dropped.Add(1)
	if h.full.now() {
		h.logger.Warn("the webhook is too far behind; changes are not told", "waiting", maxWaiting)
	}
}

// failed notes that a request has failed; again tells whether it is tried again.
func (h *Hook) failed(user mutlog.User, tries int, again bool, err error) {
	h.counters.failures.Add(1)
	switch {
	case !again:
		h.counters.dropped.Add(1)
		h.logger.Warn("the webhook was not taken, and is given up", "user", user, "tries", tries, "error", err)
	case h.failing.now():
		h.logger.Warn("the webhook was not taken; trying again", "user", user, "tries", tries, "error", err)
	default:
		h.logger.Debug("the webhook was not taken; trying again", "user", user, "tries", tries, "error", err)
	}
}
