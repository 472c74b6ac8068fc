package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/oklog/ulid/v2"

	"tidemark/auth"
)

// Values of headers that never change; sharing them spares an allocation each.
var (
	noStore = []string{"no-store"}
	noSniff = []string{"nosniff"}

	// For a year, browsers ask this name over TLS only. They would do so for
	// every port of a loopback name, so that this is not said there.
	strictTransport = []string{"max-age=31536000"}
)

// frame is around every request: its id, the headers that every answer has,
// what happens to a panic, and one line in the log.
func (s *Server) frame(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		start := time.Now()
		s.begin(c, start)
		id := requestID(c.Request())
		h := c.Response().Header()
		h["X-Request-Id"] = []string{id}
		h["Cache-Control"] = noStore
		h["X-Content-Type-Options"] = noSniff
		if c.Request().TLS != nil && !isLoopbackName(hostname(c.Request().Host)) {
			h["Strict-Transport-Security"] = strictTransport
		}
		if len(c.Request().TransferEncoding) > 0 {
			// net/http does not tell whether a Content-Length contradicts the
			// chunks. A proxy that goes by that would take the rest of the body
			// for a part of this request, and this server for the next one.
			h.Set("Connection", "close")
		}

		defer func() {
			if r := recover(); r != nil {
				if r != http.ErrAbortHandler {
					s.Logger.Error("panic", "request", id, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
				}
				if r == http.ErrAbortHandler || c.Response().Committed {
					s.end(c, id, start, true)
					panic(http.ErrAbortHandler) // cut the answer, so that nobody takes it for a whole one
				}
				s.answerError(errPanic, c)
			}
			s.end(c, id, start, false)
		}()
		allowed := s.shareWithOrigin(c)
		var err error
		switch isOptions := c.Request().Method == http.MethodOptions && c.Get(echo.ContextKeyHeaderAllow) != nil; {
		case isOptions && allowed && isPreflight(c.Request()):
			err = preflight(c)
		case isOptions:
			err = echo.ErrMethodNotAllowed // echo would answer by itself
		default:
			err = next(c)
		}
		if err != nil {
			s.answerError(err, c)
		}
		return nil
	}
}

// lasting is the context of a request that goes on when its client stops
// sending: net/http takes that for the client's end, but a client may close its
// side and wait for the answer. Of one that is gone the next write tells.
func lasting(c echo.Context) context.Context { return context.WithoutCancel(c.Request().Context()) }

// requestID returns the client's own id of r if it is 1 to 128 printable ASCII
// characters, else a new ULID.
func requestID(r *http.Request) string {
	if ids := r.Header["X-Request-Id"]; len(ids) == 1 && len(ids[0]) <= 128 && printableASCII(ids[0]) {
		return ids[0]
	}
	return newULID()
}

// newULID returns a new ULID. Those of one millisecond are in no order, for which
// all requests would have to wait for one lock.
func newULID() string {
	var id ulid.ULID
	id.SetTime(ulid.Now()) // fails after the year 10889
	binary.BigEndian.PutUint64(id[6:], rand.Uint64())
	binary.BigEndian.PutUint16(id[14:], uint16(rand.Uint32()))
	return id.String()
}

// printableASCII reports whether s is not empty and all of 0x20 to 0x7e.
func printableASCII(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return s != ""
}

const (
	principalKey = "principal" // of the echo.Context: the *auth.Principal of the request
	causeKey     = "cause"     // the error behind an answer that does not tell it
)

// logRequest writes the line of a request: never data, never credentials, and
// of the URL only the path, because a query may hold what was meant for a
// header.
func (s *Server) logRequest(c echo.Context, id string, start time.Time) {
	level := slog.LevelInfo
	if c.Response().Status >= 500 {
		level = slog.LevelError
	}
	ctx := c.Request().Context()
	if !s.Logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", c.Request().Method),
		slog.String("path", c.Request().URL.Path),
		slog.Int("status", c.Response().Status),
		slog.Int64("bytes", c.Response().Size),
		slog.Duration("took", time.Since(start)),
		slog.String("request", id),
		slog.String("peer", s.Proxies.ofRequest(c.Request()).String()),
	}
	if who, ok := c.Get(principalKey).(*auth.Principal); ok {
		attrs = append(attrs, slog.String("user", string(who.User)))
	}
	if cause, ok := c.Get(causeKey).(error); ok {
		attrs = append(attrs, slog.String("error", cause.Error()))
	}
	s.Logger.LogAttrs(ctx, level, "request", attrs...)
}
