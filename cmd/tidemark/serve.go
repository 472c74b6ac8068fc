package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"tidemark"
	"tidemark/admin"
	"tidemark/auth"
	"tidemark/devices"
	"tidemark/export"
	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store"
	"tidemark/telemetry"
)

// Run serves until SIGTERM or SIGINT, or until the store fails.
func (c *serveCommand) Run(io streams) error {
	if err := c.validate(); err != nil {
		return err
	}
	logger, err := c.logger(io)
	if err != nil {
		return err
	}
	ctx, stop := untilInterrupted()
	defer stop()
	kinds, err := openResources(ctx, c.Resources, logger)
	if err != nil {
		return err
	}

	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := c.verify(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	figures := telemetry.New(versionText())
	s, err := c.open(ctx, figures)
	if err != nil {
		return err
	}
	defer s.Close()
	var work background
	defer work.stop()
	authority, err := c.authority(ctx, s, &work, logger)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return &exitError{exitAddress, err}
	}
	defer l.Close()
	api, err := c.assemble(ctx, s, parts{authority, kinds, figures, logger}, &work)
	if err != nil {
		return err
	}
	c.greet(ctx, io, l.Addr(), authority)
	return c.serve(ctx, api, l, s, work.stop, logger)
}

// background is work beside the requests, by what ends it.
type background []func()

func (b *background) until(stop func()) { *b = append(*b, stop) }

// stop ends the work, what began last first. To call it again does nothing.
func (b *background) stop() {
	for _, stop := range slices.Backward(*b) {
		stop()
	}
	*b = nil
}

// open opens the store, unless it is one that is still being filled.
func (c *serveCommand) open(ctx context.Context, figures *telemetry.Metrics) (store.Store, error) {
	s, err := store.Open(c.Store, store.BoltOptions{AnyFileSystem: c.AnyFileSystem, FoldBatches: c.FoldBatches, Committed: figures.Committed})
	if err != nil {
		return nil, storeError(err)
	}
	if err := whole(ctx, s, c.Store); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// parts are what a server is made of, beside its store.
type parts struct {
	authority *auth.Authority
	kinds     func() mutlog.Kinds
	figures   *telemetry.Metrics
	logger    *slog.Logger
}

// assemble makes the server of the flags, and begins the work beside it.
func (c *serveCommand) assemble(ctx context.Context, s store.Store, p parts, work *background) (*server.Server, error) {
	o := c.limitFlags.options(server.Options{OpenAPI: tidemark.OpenAPI, Logger: p.logger}, p.logger)
	c.edgeFlags.fill(&o)
	var err error
	if o.TLS, err = c.tlsFlags.config(ctx, p.logger); err != nil {
		return nil, err
	}
	o.Log = mutlog.New(s, o.Limits)
	if store.IsDatabase(c.Store) {
		o.StoreTime = store.PostgresTimeout
	}
	o.Devices = devices.NewTracker(s, p.logger)
	holds := &export.Holds{Store: s, Logger: p.logger}
	if err := holds.Refresh(ctx); err != nil {
		return nil, err
	}
	var health upkeepHealth
	o.Held, o.Resources, o.Ready, o.Worry = holds.Held, p.kinds, hasRoom(s), health.worry
	o.Authenticate, o.Tickets = server.Authenticator(p.authority), p.authority
	if err := observe(ctx, &o, p.figures, work); err != nil {
		return nil, err
	}
	if o.Pushed, err = c.webhook(p.logger, p.figures, work); err != nil {
		return nil, err
	}
	if err := c.profiles(work); err != nil {
		return nil, err
	}
	api := server.New(o)
	p.figures.WatchServer(api)
	p.figures.WatchStore(s)
	operators := admin.Options{Store: s, Authority: p.authority, Devices: o.Devices, Holds: holds, Figures: p.figures.Handler(), Logger: p.logger}
	return api, c.upkeep(ctx, operators, p.figures, &health, o.TLS, work)
}

// serve answers requests on l until ctx is done or s has failed.
func (c *serveCommand) serve(ctx context.Context, api *server.Server, l net.Listener, s store.Store, stopWork func(), logger *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.Failed():
			cancel()
		case <-ctx.Done():
		}
	}()
	served := make(chan error, 1)
	go func() { served <- api.Serve(ctx, l) }()
	var err error
	select {
	case <-s.Failed():
		select {
		case <-served:
		case <-time.After(failTimeout): // no client may hold up the end
		}
	case err = <-served:
	}
	select {
	case <-s.Failed():
		return &exitError{exitStoreFailed, errors.New("the store failed; what was acknowledged is on disk, start again to serve it")}
	default:
	}
	stopWork()
	if err == nil {
		err = s.Close()
	}
	logger.Info("stopped")
	return err
}

// gcPercent lets garbage grow to four times what is live before it is collected.
// Little is live: at Go's default, collecting it took a sixth of the time of
// pushes. GOMEMLIMIT bounds both.
const gcPercent = 400

// failTimeout is how long requests under way get once the store has failed.
const failTimeout = 500 * time.Millisecond

// verify checks a store before it is served. A database is checked by those who run
// it; others may be serving from it.
func (c *serveCommand) verify(ctx context.Context) error {
	if store.IsDatabase(c.Store) {
		return nil
	}
	if _, err := os.Stat(c.Store); c.Check == checkOff || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var out bytes.Buffer
	code, said, err := checkApart(ctx, c.Store, c.Check, &out, nil)
	switch {
	case ctx.Err() != nil: // asked to stop
		return nil
	case err != nil:
		return err
	case code == exitOK:
		return nil
	case code == exitFailure:
		problem, _, _ := strings.Cut(out.String(), "\n")
		return &exitError{exitDamaged, fmt.Errorf("%s: %s", said, problem)}
	}
	return &exitError{code, errors.New(said)}
}

func (c *serveCommand) validate() error {
	if err := errors.Join(c.limitFlags.validate(), c.retentionFlags.validate(), c.backupFlags.validate(), c.tlsFlags.validate(), c.validateAdmin()); err != nil {
		return err
	}
	if c.Store == "" {
		return usageError("--store must name a file or a database")
	}
	if _, _, err := net.SplitHostPort(c.Addr); err != nil {
		return usageError("--addr: %w", err)
	}
	if c.Pprof != "" {
		if host, _, err := net.SplitHostPort(c.Pprof); err != nil || !isLoopback(host) {
			return usageError("--pprof must be host:port on the loopback interface")
		}
	}
	return nil
}

// isLoopback tells whether only this machine reaches host.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (c *serveCommand) logger(io streams) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, usageError("--log-level: %w", err)
	}
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(io.err, options)), nil
	}
	return slog.New(slog.NewTextHandler(io.err, options)), nil
}
