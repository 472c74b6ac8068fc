package events

import (
	"context"
	"sync"
	"time"

	"tidemark/mutlog"
)

// Interval is the least time between two events of a stream.
const Interval = 250 * time.Millisecond

// unset is before every head.
const unset = mutlog.Beginning - 1

// Sink is the client of a stream. Its functions are called one at a time.
type Sink struct {
	// Write writes the whole of b, or fails if the client does not take it in
	// time.
	Write func(b []byte) error

	// Ended is called once, after the last Write. The reason is ErrClosed, an
	// error of Write or what End was given.
	Ended func(reason error)
}

// Stream tells one client of the heads of a log, as Server-Sent Events. While
// there is nothing to tell there is no goroutine for it: one is started when
// there is, and ends when it has written.
type Stream struct {
	sub   subscription
	spoke int // of the wheel
	sink  Sink

	mu      sync.Mutex
	prelude []byte           // to be written before anything else
	head    mutlog.Timestamp // newest heard of
	told    mutlog.Timestamp // newest written
	next    time.Time        // before which no event is written
	timer   *time.Timer      // that is set for next, or nil
	alive   bool             // a keep-alive is due
	leaving bool             // the goodbye is due
	goodbye bool             // the goodbye is written, or being written
	started bool
	telling bool  // what is being written has an event
	writing bool  // a goroutine writes, and will look for more
	reason  error // why it has ended, or nil
}

// Open subscribes to the log of user and looks at its head. It fails with
// ErrUserLimit, ErrFull, ErrClosed or an error of the store. The stream must be
// given to Start.
func (h *Hub) Open(ctx context.Context, user mutlog.User) (*Stream, error) {
	s := &Stream{head: unset, told: unset}
	s.sub = subscription{hub: h, user: user, kind: streams, wake: s.heard, end: s.leave}
	if err := h.subscribe(&s.sub); err != nil {
		return nil, err
	}
	head, err := h.log.Head(ctx, user)
	if err != nil {
		s.sub.leave()
		return nil, err
	}
	s.heard(head)
	return s, nil
}

// Start begins to tell: prelude first, then the head of the log, and so on. A
// stream that has ended already ends at once.
func (s *Stream) Start(prelude []byte, sink Sink) {
	s.sub.hub.beat.add(s)
	s.mu.Lock()
	s.started, s.sink = true, sink
	s.prelude = appendRetry(prelude, retryLeast, retryMost)
	s.proceed()
	over := s.reason != nil
	s.mu.Unlock()
	if over {
		s.release()
	}
}

// End ends the stream for a reason. If something is just being written, Ended
// is called after that.
func (s *Stream) End(reason error) {
	s.mu.Lock()
	over := s.reason == nil && s.started && !s.writing
	s.finish(reason)
	s.mu.Unlock()
	if over {
		s.release()
	}
}

// heard notes a head of the log.
func (s *Stream) heard(head mutlog.Timestamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if head > s.head {
		s.head = head
		s.proceed()
	}
}

// keepAlive notes that it is time for a sign of life.
func (s *Stream) keepAlive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.alive = true
	s.proceed()
}

// leave says goodbye, and ends the stream.
func (s *Stream) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving = true
	s.proceed()
}

// due is called when the time for the next event has come.
func (s *Stream) due() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = nil
	s.proceed()
}

// proceed has the next thing written if there is one and its time has come. s.mu
// is held.
func (s *Stream) proceed() {
	if !s.started || s.writing || s.reason != nil {
		return
	}
	if b := s.take(); b != nil {
		s.writing = true
		go s.run(b)
	}
}

// run writes b and whatever is due after it.
func (s *Stream) run(b []byte) {
	for b != nil {
		b = s.wrote(s.sink.Write(b))
	}
}

// wrote notes how a write has ended, and returns what is to be written next, or
// nil.
func (s *Stream) wrote(err error) (b []byte) {
	s.mu.Lock()
	if s.telling {
		s.telling = false
		s.next = time.Now().Add(Interval) // from now, or a client that was slow is told twice at once
	}
	switch {
	case err != nil:
		s.finish(err)
	case s.goodbye:
		s.finish(ErrClosed)
	}
	over := s.reason != nil
	if !over {
		b = s.take()
	}
	s.writing = b != nil
	s.mu.Unlock()
	if over {
		s.release()
	}
	return b
}

// take returns what is to be written now, or nil. If it is too early for an
// event, it sets the timer. s.mu is held.
func (s *Stream) take() []byte {
	b := s.prelude
	s.prelude = nil
	now := time.Now()
	if news := s.head > s.told; news && (s.leaving || !now.Before(s.next)) {
		b = appendHead(b, s.head)
		s.told, s.telling = s.head, true
	} else if news && s.timer == nil {
		s.timer = time.AfterFunc(s.next.Sub(now), s.due)
	}
	if s.leaving {
		s.goodbye = true
		b = appendRetry(b, spreadLeast, spreadMost)
	}
	if s.alive && b == nil {
		b = comment
	}
	s.alive = false
	return b
}

// finish makes the stream take nothing more. s.mu is held.
func (s *Stream) finish(reason error) {
	if s.reason != nil {
		return
	}
	s.reason = reason
	if s.timer != nil {
		s.timer.Stop()
	}
}

// release gives back what the stream holds. It is called once, without s.mu,
// which whoever hears a push takes while it holds the hub's.
func (s *Stream) release() {
	s.sub.hub.beat.remove(s)
	s.sink.Ended(s.reason)
	s.sub.leave()
}
