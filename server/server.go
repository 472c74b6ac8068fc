// Package server speaks the protocol over HTTP, and nothing else: handlers
// decode, call mutlog, and encode. The rules of the log are in mutlog; every
// error becomes an answer in errors.go.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/klauspost/compress/gzhttp"
	"github.com/labstack/echo/v4"

	"tidemark/mutlog"
)

// Options say what a server serves.
type Options struct {
	Log    *mutlog.Log
	Limits mutlog.Limits

	// MaxBodyBytes bounds the body of a push.
	MaxBodyBytes int64

	// Authenticate tells whose log a request is about; nil means OpenUser.
	Authenticate func(*http.Request) (mutlog.User, error)

	// OpenAPI is the document served at /openapi.yaml.
	OpenAPI []byte

	// Logger gets one line per request.
	Logger *slog.Logger
}

// Server answers the requests of devices.
type Server struct {
	Options
	echo    *echo.Echo
	handler http.Handler
}

// New returns a server; it does not listen yet.
func New(o Options) *Server {
	if o.Authenticate == nil {
		o.Authenticate = OpenUser
	}
	s := &Server{Options: o, echo: echo.New()}
	s.echo.HTTPErrorHandler = s.answerError
	s.echo.Use(s.frame)
	s.routes(s.echo)

	compress, err := gzhttp.NewWrapper(gzhttp.EnableZstd(true), gzhttp.MinSize(1024))
	if err != nil {
		panic(err) // the options are constants
	}
	s.handler = compress(s.echo)
	return s
}

// routes is the route table. Whatever acts on a log goes through asUser.
func (s *Server) routes(e *echo.Echo) {
	e.GET("/v1/sync", s.asUser(s.pull))
	e.POST("/v1/sync", s.asUser(s.push))

	for _, method := range []string{http.MethodGet, http.MethodHead} {
		e.Add(method, "/", s.index)
		e.Add(method, "/openapi.yaml", s.openAPI)
		e.Add(method, "/livez", s.live)
	}
}

// Routes returns the route table, each as "GET /v1/sync".
func (s *Server) Routes() []string {
	var routes []string
	for _, r := range s.echo.Routes() {
		routes = append(routes, r.Method+" "+r.Path)
	}
	return routes
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

// The times that a client may take.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 15 * time.Second // of a whole request
	writeTimeout      = 30 * time.Second // of one write to the network; an answer may have many
	idleTimeout       = 60 * time.Second
	drainTimeout      = 10 * time.Second
	maxHeaderBytes    = 16 << 10
)

// Serve answers requests on l until ctx is done, then lets those under way
// finish and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            readHeaderTimeout,
		ReadTimeout:                  readTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(listener{l}) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := h.Shutdown(drain); err != nil {
		s.Logger.Warn("some requests did not finish in time and were cut", "error", err)
		h.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// listener gives each write to a connection a deadline of its own. A deadline
// for the whole answer would cut long pulls, none would let a client that does
// not read hold its connection for ever.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return conn{c}, nil
}

type conn struct{ net.Conn }

func (c conn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}
