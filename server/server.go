// Package server speaks the protocol over HTTP, and nothing else: handlers
// decode, call mutlog, and encode. The rules of the log are in mutlog; every
// error becomes an answer in errors.go.
package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzhttp"
	"github.com/labstack/echo/v4"
	"golang.org/x/sync/singleflight"

	"tidemark/auth"
	"tidemark/devices"
	"tidemark/events"
	"tidemark/mutlog"
)

// Options say what a server serves.
type Options struct {
	Log    *mutlog.Log
	Limits mutlog.Limits

	// Resources returns the kinds of resources that there may be now; each
	// request keeps those it began with. Nil allows every kind.
	Resources func() mutlog.Kinds

	// MaxBodyBytes bounds the body of a push.
	MaxBodyBytes int64

	// StoreTime bounds how long a request may wait for the store in all, until it
	// is answered, where the store is one that can hang; 0 is no bound.
	StoreTime time.Duration

	// MaxConnections bounds the connections that are open at once; 0 means 4096.
	MaxConnections int

	// MaxStreams and MaxStreamsPerUser bound the streams that are open at once,
	// which do not count as connections; 0 means 20000 and 16. Waiting pulls
	// count as streams of their user, and in all half of MaxConnections may wait.
	MaxStreams, MaxStreamsPerUser int

	// MaxStreamBytes bounds what the kernel keeps of a stream while its client
	// does not read; 0 means 4 KiB. A client that lets it fill up is cut.
	MaxStreamBytes int

	// MaxHeaderBytes bounds the request line and the headers; 0 means 16 KiB.
	MaxHeaderBytes int

	// MaxMemory bounds what the requests under way may hold, in bytes; 0 means
	// half of GOMEMLIMIT, or 512 MiB where there is none.
	MaxMemory int64

	// The times that a client may take: for the headers and for the whole of a
	// request, to take a write of the server (an answer may have many), and
	// between two requests. 0 means 5, 15, 30 and 60 s.
	ReadHeaderTimeout, ReadTimeout, WriteTimeout, IdleTimeout time.Duration

	// Authenticate tells who is asking; nil means OpenUser. It fails with
	// auth.ErrUnauthenticated, or with an error about the request.
	Authenticate func(*http.Request) (*auth.Principal, error)

	// TLS says how connections are encrypted, see Certificate; nil means not at
	// all. Encrypted ones may speak HTTP/2.
	TLS *tls.Config

	// AllowedHosts are names beside its own that a server without
	// authentication answers to; see keepPagesOut.
	AllowedHosts []string

	// Origins are those whose web apps may use the server, as ParseOrigin
	// returns them.
	Origins []string

	// Proxies are those whose word counts about the addresses of clients.
	Proxies Proxies

	// Rates bound how often clients may ask.
	Rates Rates

	// Held, if not nil, tells whether the log of a user must not be served now;
	// such requests are answered with 503.
	Held func(mutlog.User) bool

	// Devices, if not nil, is told what became of each push and pull.
	Devices *devices.Tracker

	// Ready, if not nil, fails while the server cannot serve for a reason that
	// looking at the store does not show.
	Ready func(context.Context) error

	// Worry, if not nil, returns in a few words what an operator should see to
	// although the server is ready, or "". Whoever asks for /readyz reads it.
	Worry func() string

	// Observe, if not nil, is told of each request when it has been answered. It
	// must neither block nor keep what it is given.
	Observe func(*Exchange)

	// Pushed is told of each push that this server has applied, whose log it is
	// and the new head, or nil. It must not block.
	Pushed func(mutlog.User, mutlog.Timestamp)

	// Tickets stand for credentials where those cannot be sent.
	Tickets Tickets

	// OpenAPI is the document served at /openapi.yaml.
	OpenAPI []byte

	// Logger gets one line per request.
	Logger *slog.Logger
}

// Server answers the requests of devices.
type Server struct {
	Options
	echo     *echo.Echo
	handler  http.Handler
	memory   *memory
	throttle *throttle
	hosts    map[string]bool // AllowedHosts
	origins  map[string]bool // Origins

	connections atomic.Int64 // that are open and were let in
	requests    atomic.Int64 // under way

	readiness singleflight.Group
	hub       *events.Hub
}

// New returns a server; it does not listen yet.
func New(o Options) *Server {
	o.MaxConnections = cmp.Or(o.MaxConnections, 4096)
	o.MaxStreams = cmp.Or(o.MaxStreams, 20_000)
	o.MaxStreamsPerUser = cmp.Or(o.MaxStreamsPerUser, 16)
	o.MaxStreamBytes = cmp.Or(o.MaxStreamBytes, 4<<10)
	o.MaxHeaderBytes = cmp.Or(o.MaxHeaderBytes, 16<<10)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, 15*time.Second)
	o.ReadHeaderTimeout = min(cmp.Or(o.ReadHeaderTimeout, 5*time.Second), o.ReadTimeout)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, 30*time.Second)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, 60*time.Second)
	if o.Resources == nil {
		o.Resources = func() mutlog.Kinds { return nil }
	}
	s := &Server{Options: o, echo: echo.New(), memory: newMemory(o.MaxMemory, o.MaxBodyBytes), throttle: newThrottle(o.Rates),
		hosts: map[string]bool{}, origins: map[string]bool{}}
	if s.Authenticate == nil {
		s.Authenticate = OpenUser
	}
	for _, host := range o.AllowedHosts {
		s.hosts[hostname(host)] = true
	}
	for _, origin := range o.Origins {
		s.origins[origin] = true
	}
	s.hub = events.New(o.Log, events.Limits{PerUser: o.MaxStreamsPerUser, Streams: o.MaxStreams, Waits: max(1, o.MaxConnections/2)}, o.Logger)
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

// routes is the route table. Whatever acts on a log goes through asPrincipal,
// with the scope that it asks for; the rest is public.
func (s *Server) routes(e *echo.Echo) {
	e.GET("/v1/sync", s.asPrincipal(auth.ScopeRead, s.bounded(s.memory.pulls, s.seen(s.pull))))
	e.POST("/v1/sync", s.asPrincipal(auth.ScopeSync, s.bounded(s.memory.pushes, s.seen(s.push))))
	e.GET(eventsPath, s.asHolder(auth.ScopeRead, s.events))
	e.POST(eventsPath+"/ticket", s.asPrincipal(auth.ScopeRead, s.ticket))
	e.GET("/v1/sync/limits", s.asPrincipal(auth.ScopeRead, s.limits))

	for _, method := range []string{http.MethodGet, http.MethodHead} {
		e.Add(method, "/", s.paced(s.index))
		e.Add(method, "/openapi.yaml", s.paced(s.openAPI))
		e.Add(method, "/livez", s.live)
		e.Add(method, "/readyz", s.ready)
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
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.ProtoMajor == 1:
		s.answer(w, r)
	case r.ProtoMajor == 2 && r.TLS != nil:
		answer := &stream{w, s}
		s.answer(answer, r)
		answer.end()
	default: // net/http lets the preface of HTTP/2 through
		w.Header().Set("Connection", "close")
		http.Error(w, "505 HTTP Version Not Supported: only HTTP/1", http.StatusHTTPVersionNotSupported)
	}
}

// answer goes by the route table. A compressor would keep events back.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == eventsPath {
		s.echo.ServeHTTP(w, r)
		return
	}
	s.handler.ServeHTTP(w, r)
}

const (
	drainTimeout = 10 * time.Second

	// scarceTimeout bounds a write while memory is scarce.
	scarceTimeout = 3 * time.Second
)

// patience is how long a client may take to accept a part of an answer.
func (s *Server) patience() time.Duration {
	if s.memory.isScarce() {
		return min(s.WriteTimeout, scarceTimeout) // a client that does not read keeps others waiting
	}
	return s.WriteTimeout
}

// goodbyeTimeout is how long the clients of streams may take to hear that the
// server shuts down.
const goodbyeTimeout = 2 * time.Second

// sayGoodbye ends the streams and the waits, which would last longer than the
// shutdown may.
func (s *Server) sayGoodbye(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, goodbyeTimeout)
	defer cancel()
	s.hub.Close(ctx)
}

// Serve answers requests on l until ctx is done, then lets those under way
// finish and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{
		Handler:                      s,
		ReadHeaderTimeout:            s.ReadHeaderTimeout,
		ReadTimeout:                  s.ReadTimeout,
		IdleTimeout:                  s.IdleTimeout,
		MaxHeaderBytes:               s.MaxHeaderBytes,
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(s.Logger.Handler(), slog.LevelDebug),
		TLSConfig:                    s.TLS,
		HTTP2:                        http2Config(),
	}
	serve := h.Serve
	if s.TLS != nil {
		serve = func(l net.Listener) error { return h.ServeTLS(l, "", "") }
	}
	live, silence := context.WithCancel(context.WithoutCancel(ctx))
	var telling sync.WaitGroup
	telling.Go(func() { s.hub.Run(live) })
	defer telling.Wait()
	defer silence()
	served := make(chan error, 1)
	go func() { served <- serve(newGate(l, s, h)) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	s.sayGoodbye(drain)
	if err := h.Shutdown(drain); err != nil {
		s.Logger.Warn("some requests did not finish in time and were cut", "error", err)
		h.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
