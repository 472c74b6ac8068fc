package server

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"tidemark/auth"
	"tidemark/events"
)

// eventsPath is that of the streams.
const eventsPath = "/v1/sync/events"

const (
	// streamWriteTimeout is how long the client of a stream may take to accept
	// what is written to it, once its connection holds no more.
	streamWriteTimeout = 10 * time.Second

	// maxStreamInput bounds what a client may send on a stream, where it has
	// nothing to say.
	maxStreamInput = 4 << 10
)

// The ends of a stream that are the client's doing.
var (
	errGone   = errors.New("the client has gone")
	errTalks  = errors.New("the client keeps sending")
	errLapsed = errors.New("the token has expired or was revoked, or there was none and now there must be")
)

// events answers GET /v1/sync/events with a stream of the heads of a log.
func (s *Server) events(c echo.Context, who *auth.Principal) error {
	r := c.Request()
	if err := legible(r); err != nil {
		return err
	}
	stream, err := s.hub.Open(lasting(c), who.User)
	if err != nil {
		return err
	}
	h := c.Response().Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // or nginx gathers events until it has some KiB of them

	begun := time.Now()
	stop := whenLapsed(who, func() { stream.End(errLapsed) })
	ended := func(reason error) {
		stop()
		s.Logger.Info("stream ended", "user", who.User, "took", time.Since(begun), "reason", reason)
	}
	if r.ProtoMajor == 1 {
		if conn, _, err := c.Response().Hijack(); err == nil {
			s.detach(c, stream, conn, ended)
			return nil
		}
	}
	attach(c, stream, ended)
	return nil
}

// detach serves a stream on a connection that net/http has let go of: it would
// keep its buffers and the stack of every handler for each.
func (s *Server) detach(c echo.Context, stream *events.Stream, conn net.Conn, ended func(error)) {
	h := c.Response().Header()
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Set("Connection", "close") // so that the end of the connection is the end of the answer
	head := bytes.NewBufferString("HTTP/1.1 200 OK\r\n")
	h.Write(head)
	head.WriteString("\r\n")
	c.Response().Status, c.Response().Committed = http.StatusOK, true

	outOfGate(conn, s.MaxStreamBytes)
	stream.Start(head.Bytes(), events.Sink{
		Write: func(b []byte) error { _, err := conn.Write(b); return err },
		Ended: func(reason error) { conn.Close(); ended(reason) },
	})
	go listen(conn, stream)
}

// listen ends the stream when its client goes away.
func listen(conn net.Conn, stream *events.Stream) {
	b := make([]byte, 64)
	reason := errTalks
	for heard := 0; heard < maxStreamInput; {
		n, err := conn.Read(b)
		if heard += n; err != nil {
			reason = errGone
			break
		}
	}
	stream.End(reason)
	conn.Close() // a write that hangs ends, too
}

// attach serves a stream from within its handler, on a connection that others
// share.
func attach(c echo.Context, stream *events.Stream, ended func(error)) {
	c.Response().WriteHeader(http.StatusOK)
	w := innermost(c.Response().Writer) // it gets deadlines of its own
	control := http.NewResponseController(w)
	control.SetReadDeadline(time.Time{})
	over := make(chan struct{})
	stream.Start(nil, events.Sink{
		Write: func(b []byte) error {
			control.SetWriteDeadline(time.Now().Add(streamWriteTimeout))
			defer control.SetWriteDeadline(time.Time{})
			if _, err := w.Write(b); err != nil {
				return err
			}
			return control.Flush()
		},
		Ended: func(reason error) { ended(reason); close(over) },
	})
	select {
	case <-c.Request().Context().Done():
		stream.End(errGone)
		<-over
	case <-over:
	}
}

// innermost returns what all others wrap.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		outer, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = outer.Unwrap()
	}
}

// whenLapsed calls end when the credential of who expires or is revoked, unless
// stop is called before.
func whenLapsed(who *auth.Principal, end func()) (stop func()) {
	var expiry *time.Timer
	if !who.Expires.IsZero() {
		expiry = time.AfterFunc(time.Until(who.Expires), end)
	}
	var over chan struct{}
	if who.Done != nil {
		over = make(chan struct{})
		go func() {
			select {
			case <-who.Done:
				end()
			case <-over:
			}
		}()
	}
	return func() {
		if expiry != nil {
			expiry.Stop()
		}
		if over != nil {
			close(over)
		}
	}
}
