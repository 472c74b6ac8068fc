package server

import (
	"errors"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"tidemark/mutlog"
)

// Exchange is a request and what became of it, as an observer is told.
type Exchange struct {
	Request *http.Request

	// Route is the path of the route table that the request is about, or "" if
	// there is none: unlike the path of the request it is one of few.
	Route string

	Status int
	Size   int64 // of the body of the answer before it is compressed, in bytes
	Cut    bool  // the answer was cut short

	Code   string        // of an error, as in its answer
	Reason mutlog.Reason // of an OutOfSyncError
	Limit  string        // of a RateLimitError

	// Pushed is the answer to a push that was accepted.
	Pushed *mutlog.Pushed

	Begun time.Time
	Took  time.Duration
	Steps []Step // of a push or pull, in order; the rest of it is the answer
}

// Step is a part of the work on a request, from the end of the one before.
type Step struct {
	Name string
	End  time.Time
}

const exchangeKey = "exchange" // of the echo.Context: the *Exchange, where somebody observes

// step notes that a part of the work is done.
func step(c echo.Context, name string) {
	if x, ok := c.Get(exchangeKey).(*Exchange); ok {
		x.Steps = append(x.Steps, Step{name, time.Now()})
	}
}

// notePushed notes the answer to a push.
func notePushed(c echo.Context, pushed *mutlog.Pushed) {
	if x, ok := c.Get(exchangeKey).(*Exchange); ok {
		x.Pushed = pushed
	}
}

// noteError notes what a request is refused with.
func noteError(c echo.Context, code string, cause error) {
	x, ok := c.Get(exchangeKey).(*Exchange)
	if !ok {
		return
	}
	x.Code = code
	var outOfSync *mutlog.OutOfSyncError
	var rate *rateError
	switch {
	case errors.As(cause, &outOfSync):
		x.Reason = outOfSync.Reason
	case errors.As(cause, &rate):
		x.Limit = rate.limit
	}
}

// begin counts a request that begins.
func (s *Server) begin(c echo.Context, begun time.Time) {
	s.requests.Add(1)
	if s.Observe != nil {
		c.Set(exchangeKey, &Exchange{Request: c.Request(), Begun: begun})
	}
}

// end tells the log and the observer of a request that has ended.
func (s *Server) end(c echo.Context, id string, begun time.Time, cut bool) {
	s.requests.Add(-1)
	s.logRequest(c, id, begun)
	x, ok := c.Get(exchangeKey).(*Exchange)
	if !ok {
		return
	}
	x.Route = c.Path() // "" where no route fits
	x.Status, x.Size, x.Cut = c.Response().Status, c.Response().Size, cut
	x.Took = time.Since(begun)
	s.Observe(x)
}

// Stats are figures of a server at one moment.
type Stats struct {
	Connections    int64 // that are open
	MaxConnections int64
	Requests       int64 // under way
	Waiting        int64 // requests that wait for memory to work in
	Streams        int   // of events, each on a connection that is not counted above if it is over HTTP/1
	WaitingPulls   int   // pulls that wait for something new
}

// Stats returns the figures of now.
func (s *Server) Stats() Stats {
	streams, waits := s.hub.Counts()
	return Stats{s.connections.Load(), int64(s.MaxConnections), s.requests.Load(), s.memory.waiting.Load(), streams, waits}
}
