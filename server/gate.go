package server

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"tidemark/mutlog"
)

// gate is a listener that bounds how many connections are open. One too many is
// not left waiting in a queue that nobody sees: connections that wait for
// another request are closed for it, and if there are none, it is answered with
// 503. golang.org/x/net/netutil has a listener that makes it wait.
type gate struct {
	net.Listener
	server *Server
	http   *http.Server

	lingering chan struct{} // holds one for each refused connection still open
	told      time.Time     // when the log was last told of a refusal
}

const (
	// maxLingering bounds the refused connections that are still open.
	maxLingering = 16

	// lingerTime is how long a refused client has to read its answer.
	lingerTime = 500 * time.Millisecond
)

// Descriptors is how many file descriptors a server needs beside one for each
// connection: for those that it refuses, its store, its listeners and so on.
const Descriptors = maxLingering + 16

func newGate(l net.Listener, s *Server, h *http.Server) *gate {
	return &gate{Listener: l, server: s, http: h, lingering: make(chan struct{}, maxLingering)}
}

// Accept waits for a connection that may come in. Where the process runs out of
// descriptors all the same, http.Server tries again with growing pauses.
func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		most := int64(g.server.MaxConnections)
		if g.server.connections.Add(1) > most {
			g.closeIdle()
		}
		if g.server.connections.Load() <= most {
			if tcp, ok := c.(*net.TCPConn); ok {
				tcp.SetWriteBuffer(sendBuffer) // at worst it stays what it was
			}
			return &conn{Conn: c, gate: g}, nil
		}
		g.server.connections.Add(-1)
		g.refuse(c)
	}
}

// closeIdle closes all connections that wait for another request; their clients
// open new ones when they have some.
func (g *gate) closeIdle() {
	g.http.SetKeepAlivesEnabled(false)
	g.http.SetKeepAlivesEnabled(true)
}

// refuse answers a connection that is one too many with 503, whatever it asks.
func (g *gate) refuse(c net.Conn) {
	if time.Since(g.told) > time.Second {
		g.told = time.Now()
		g.server.Logger.Warn("refusing connections", "open", g.server.connections.Load())
	}
	select {
	case g.lingering <- struct{}{}:
	default:
		c.Close()
		return
	}
	go func() {
		defer func() { c.Close(); <-g.lingering }()
		c.SetDeadline(time.Now().Add(lingerTime))
		if g.server.TLS != nil {
			config := g.server.TLS.Clone()
			config.NextProtos = []string{"http/1.1"} // in which it is answered
			c = tls.Server(c, config)
		}
		p := unavailable
		body := p.appendEnvelope(nil)
		_, err := fmt.Fprintf(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"+
			"Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nX-Request-Id: %s\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s",
			len(body), newULID(), body)
		half, ok := c.(interface{ CloseWrite() error })
		if err != nil || !ok || half.CloseWrite() != nil {
			return
		}
		// To close while the request is still coming would reset the connection,
		// and the client might never see the answer.
		io.Copy(io.Discard, io.LimitReader(c, 256<<10))
	}()
}

// conn is a connection that was let in. It gives each of its writes a deadline
// of its own: one for the whole answer would cut long pulls, none would let a
// client that does not read hold its connection for ever.
type conn struct {
	net.Conn
	gate     *gate
	patience time.Duration // of a stream: how long its client may take to accept a write; else 0
	closed   sync.Once     // it counts no more

	mu       sync.Mutex
	deadline time.Time // of the next write, as it is set
	bound    time.Time // of all writes, that others have set; zero for none
}

const (
	// maxWrite bounds a single write, because each has its own deadline.
	maxWrite = 64 << 10

	// sendBuffer bounds what the kernel holds of an answer. It lets a writer go
	// on only when a third of that is free again, so with the megabytes that it
	// may take otherwise a client on a slow line would miss the deadline while
	// it reads all the time.
	sendBuffer = 256 << 10
)

func (c *conn) Write(b []byte) (written int, err error) {
	for err == nil && (len(b) > 0) {
		if err := c.patientFor(cmp.Or(c.patience, c.gate.server.patience())); err != nil {
			return written, err
		}
		var n int
		n, err = c.Conn.Write(b[:min(len(b), maxWrite)])
		written, b = written+n, b[n:]
	}
	return written, err
}

// patientFor sets the deadline of the next write. That costs as much as a short
// write, so one that is nearly as late stays.
func (c *conn) patientFor(patience time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if left := c.deadline.Sub(now); left <= patience && left > patience*7/8 {
		return nil
	}
	c.deadline = now.Add(patience)
	if !c.bound.IsZero() && c.bound.Before(c.deadline) {
		c.deadline = c.bound
	}
	return c.Conn.SetWriteDeadline(c.deadline)
}

// SetWriteDeadline bounds all writes from now on, as crypto/tls does to say
// hello and goodbye, beside the deadline that each has.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bound, c.deadline = t, time.Time{}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline bounds reads and writes.
func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite lets net/http end its side first, so that a client that is still
// sending reads its answer before the connection is reset.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

func (c *conn) Close() error {
	c.leaveCount()
	return c.Conn.Close()
}

// leaveCount makes room for another connection.
func (c *conn) leaveCount() { c.closed.Do(func() { c.gate.server.connections.Add(-1) }) }

// outOfGate readies a connection to carry a stream. It is counted as a stream
// from now on, of which there may be many more than connections that make
// requests; and since little is sent on it, buffer bytes of what its client has
// not taken are enough for the kernel to keep.
func outOfGate(c net.Conn, buffer int) {
	for {
		switch of := c.(type) {
		case *conn:
			of.leaveCount()
			of.patience = streamWriteTimeout
			c = of.Conn
		case *net.TCPConn:
			of.SetWriteBuffer(buffer)
			setUserTimeout(of, halfOpenTimeout)
			return
		case interface{ NetConn() net.Conn }: // TLS
			c = of.NetConn()
		default:
			return
		}
	}
}

// halfOpenTimeout is how long what was sent on a stream may stay
// unacknowledged: a peer that has vanished without a word is noticed at the next
// keep-alive.
const halfOpenTimeout = 20 * time.Second

// unavailable is the answer where the server has no room for a request.
var unavailable = problemOf(nil, mutlog.ErrUnavailable)
