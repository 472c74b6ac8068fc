package server

import (
	"net/http"
	"time"
)

// http2Config bounds what one connection over HTTP/2 can make the server hold:
// what arrives for requests is kept until they read it, so that the number of
// connections times these buffers is what all clients together can fill.
func http2Config() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          100, // the least that RFC 9113 recommends
		MaxReadFrameSize:              16 << 10,
		MaxReceiveBufferPerConnection: 64 << 10,
		MaxReceiveBufferPerStream:     64 << 10,
		SendPingTimeout:               30 * time.Second, // to find out that a client has gone
		PingTimeout:                   15 * time.Second,
	}
}

// stream writes one of the answers that share a connection over HTTP/2. A client
// that takes the others may take nothing of this one, which the deadlines of the
// connection do not see. So each of its writes has a deadline of its own, too.
type stream struct {
	http.ResponseWriter
	server *Server
}

// Write writes b in parts, each with a deadline.
func (w *stream) Write(b []byte) (written int, err error) {
	for err == nil && len(b) > 0 {
		w.setDeadline(w.server.patience())
		var n int
		n, err = w.ResponseWriter.Write(b[:min(len(b), maxWrite)])
		written, b = written+n, b[n:]
	}
	w.setDeadline(0) // until the next one, which may be long in coming
	return written, err
}

// FlushError sends what has been written.
func (w *stream) FlushError() error {
	w.setDeadline(w.server.patience())
	defer w.setDeadline(0)
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is FlushError for those who do not ask.
func (w *stream) Flush() { w.FlushError() }

// end gives the last write a deadline: net/http makes it when the handler has
// returned.
func (w *stream) end() { w.setDeadline(w.server.patience()) }

// setDeadline sets the deadline of the stream; 0 means none.
func (w *stream) setDeadline(patience time.Duration) {
	var deadline time.Time
	if patience > 0 {
		deadline = time.Now().Add(patience)
	}
	http.NewResponseController(w.ResponseWriter).SetWriteDeadline(deadline) // at worst that of the connection holds
}

// Unwrap is for http.ResponseController.
func (w *stream) Unwrap() http.ResponseWriter { return w.ResponseWriter }
