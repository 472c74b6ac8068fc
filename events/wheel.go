package events

import (
	"context"
	"sync"
	"time"
)

// KeepAlive is how often a stream says that it is alive.
const KeepAlive = 15 * time.Second

// spokes is in how many parts the streams are divided for that: each second one
// part has its turn, so that the work is spread.
const spokes = int(KeepAlive / time.Second)

// wheel calls each of its streams once in KeepAlive. One timer does for all of
// them.
type wheel struct {
	mu   sync.Mutex
	part [spokes]map[*Stream]struct{}
	next int // part that gets the next stream
}

// add puts s on the wheel.
func (w *wheel) add(s *Stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.spoke = w.next
	w.next = (w.next + 1) % spokes
	if w.part[s.spoke] == nil {
		w.part[s.spoke] = map[*Stream]struct{}{}
	}
	w.part[s.spoke][s] = struct{}{}
}

// remove takes s off the wheel.
func (w *wheel) remove(s *Stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.part[s.spoke], s)
}

// run turns the wheel until ctx is done.
func (w *wheel) run(ctx context.Context) {
	tick := time.NewTicker(KeepAlive / time.Duration(spokes))
	defer tick.Stop()
	for at := 0; ; at = (at + 1) % spokes {
		select {
		case <-tick.C:
			w.turn(at)
		case <-ctx.Done():
			return
		}
	}
}

// turn gives a part its turn.
func (w *wheel) turn(at int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for s := range w.part[at] {
		s.keepAlive()
	}
}
