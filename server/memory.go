package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
	"golang.org/x/sync/semaphore"

	"tidemark/auth"
	"tidemark/mutlog"
)

// What the requests under way may hold in memory together is bounded twice: the
// bytes of bodies that are still arriving or waiting, and the work on requests
// that have arrived. The two are apart, because bodies that have to wait for
// the work of others must not keep these from ending.
//
// A body counts as far as it has come, so that a client that promises a long
// one and sends nothing costs nothing. Work counts by the most that it can take:
// a small push can make the server read, and answer with, much data of its own.
//
// Pulls and pushes work apart, because pulls last as long as their clients
// take to read.
type memory struct {
	bodies, pulls, pushes *semaphore.Weighted

	bodiesSize int64
	workSize   int64        // of pulls, and of pushes
	waiting    atomic.Int64 // requests that wait for memory to work in
}

const (
	// defaultMemory is the bound where neither the options nor GOMEMLIMIT say
	// anything.
	defaultMemory = 512 << 20

	// memoryPatience is how long a request waits for the work of others, in all.
	memoryPatience = 5 * time.Second

	// firstRead is how much of a body is asked for at first.
	firstRead = 4 << 10

	// pullWork is what a pull holds: a stretch of the log and a compressor.
	pullWork = 2 << 20

	// pushWork is what a push holds beside what its size says.
	pushWork = 64 << 10

	// surelyWork is what a push may take for the data of resources without
	// asking whether it is likely to need that.
	surelyWork = 4 << 20
)

// newMemory divides size bytes, or half of GOMEMLIMIT if size is 0: a quarter
// for bodies, the rest for work. A single body of the greatest length must fit.
func newMemory(size, largestBody int64) *memory {
	if size <= 0 {
		size = defaultMemory
		if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
			size = limit / 2
		}
	}
	bodies := max(size/4, largestBody+1)
	work := max((size-bodies)/2, pullWork)
	return &memory{
		bodies: semaphore.NewWeighted(bodies), bodiesSize: bodies,
		pulls: semaphore.NewWeighted(work), pushes: semaphore.NewWeighted(work), workSize: work,
	}
}

// isScarce tells whether a request waits for memory.
func (m *memory) isScarce() bool { return m.waiting.Load() > 0 }

var errMemory = fmt.Errorf("%w: the requests under way hold all the memory that they may", mutlog.ErrUnavailable)

// hold is what one request has taken of the memory.
type hold struct {
	m            *memory
	of           *semaphore.Weighted // what work is taken of: pulls or pushes
	bodies, work int64
	until        time.Time // up to when it waits for work of others; zero before it does
}

// body takes n more bytes for the body, or fails at once: requests that hold a
// part of their bodies and wait for one another would wait for ever.
func (h *hold) body(n int64) error {
	if !h.m.bodies.TryAcquire(n) {
		return errMemory
	}
	h.bodies += n
	return nil
}

// forWork makes n the bytes taken for work. It waits for them holding none.
func (h *hold) forWork(ctx context.Context, n int64) error {
	h.keep(0)
	n = min(n, h.m.workSize)
	if !h.of.TryAcquire(n) {
		h.m.waiting.Add(1)
		defer h.m.waiting.Add(-1)
		if h.until.IsZero() {
			h.until = time.Now().Add(memoryPatience)
		}
		patient, cancel := context.WithDeadline(ctx, h.until)
		defer cancel()
		if err := h.of.Acquire(patient, n); err != nil {
			return errors.Join(errMemory, err)
		}
	}
	h.work = n
	return nil
}

// keep gives back all but n bytes of those taken for work.
func (h *hold) keep(n int64) {
	if back := h.work - n; back > 0 {
		h.of.Release(back)
		h.work = n
	}
}

// release gives everything back.
func (h *hold) release() {
	h.keep(0)
	h.m.bodies.Release(h.bodies)
	h.bodies = 0
}

// decodeWork is what reading the JSON of a body takes: the names of the
// members, to find duplicates, can take several times their own size.
func decodeWork(body []byte) int64 { return pushWork + 12*int64(len(body)) }

// schemaWork is what comparing data with a schema takes, as a multiple of the
// size of the data: every number, name and empty list of it becomes a value of
// its own. One is compared at a time.
const schemaWork = 64

// pushWorkOf is what a push can take: whatever its size, each of its mutations
// may be of a resource of the greatest size, which is changed, recorded and
// answered, or told in a conflict. Of a large push it asks first whether that is
// likely: on the head there are no conflicts, and only an UPDATE makes data.
func (s *Server) pushWorkOf(ctx context.Context, user mutlog.User, body []byte, p *mutlog.Push) int64 {
	each := int64(s.Limits.DataBytes)
	n := pushWork + 4*int64(len(body))
	worst := 3 * each * int64(len(p.Mutations))
	if worst > surelyWork {
		if head, err := s.Log.Head(ctx, user); err == nil && head == p.Base {
			worst = surelyWork
			for i := range p.Mutations {
				if p.Mutations[i].Type == mutlog.Update {
					worst += 2 * each
				}
			}
		}
	}
	n += worst
	n += schemaWork * int64(p.Access.Kinds.MostJudged(p.Mutations, s.Limits))
	if p.Merge {
		n += pullWork
	}
	return n
}

// bounded runs handler with a hold on memory, which lasts until the answer is
// written, that of an error included.
func (s *Server) bounded(of *semaphore.Weighted, handler func(echo.Context, *auth.Principal, *hold) error) func(echo.Context, *auth.Principal) error {
	return func(c echo.Context, who *auth.Principal) error {
		h := &hold{m: s.memory, of: of}
		defer h.release()
		err := handler(c, who, h)
		if err == nil {
			return nil
		}
		p := problemOf(c, err)
		h.keep(2 * int64(len(p.details)))
		s.answerProblem(c, &p, err)
		return nil
	}
}

// answerWork is what the answer to a push holds until it is written.
func answerWork(pushed *mutlog.Pushed) int64 {
	n := int64(pushWork)
	for i := range pushed.Mutations {
		n += 128 + int64(len(pushed.Mutations[i].Data))
	}
	if pushed.Changes != nil {
		n += pullWork
	}
	return n
}

// read reads a body of size bytes, or of an unknown size up to most if that is
// negative, into room that grows as the body comes.
func (h *hold) read(r io.Reader, size, most int64) (body []byte, err error) {
	if size < 0 {
		size = most + 1 // r fails before that
	} else {
		most = size
	}
	for int64(len(body)) < size {
		if len(body) == cap(body) {
			room := min(max(firstRead, 2*int64(cap(body))), size)
			if err := h.body(room - int64(cap(body))); err != nil {
				return nil, err
			}
			body = append(make([]byte, 0, room), body...)
		}
		n, err := r.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case err == io.EOF && (size > most || int64(len(body)) == size):
			return body, nil
		case err == io.EOF:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
	}
	return body, nil
}
