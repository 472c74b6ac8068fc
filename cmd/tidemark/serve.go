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
	"strings"
	"time"

	"tidemark"
	"tidemark/admin"
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
	s, err := store.Open(c.Store, store.BoltOptions{AnyFileSystem: c.AnyFileSystem, FoldBatches: c.FoldBatches, Committed: figures.Committed})
	if err != nil {
		return storeError(err)
	}
	defer s.Close()
	if err := whole(ctx, s, c.Store); err != nil {
		return err
	}
	authority, stopAuthority, err := c.authority(ctx, s, logger)
	if err != nil {
		return err
	}
	defer stopAuthority()
	l, err := net.Listen("tcp", c.Addr)
	if err != nil {
		return &exitError{exitAddress, err}
	}
	options := c.limitFlags.options(server.Options{OpenAPI: tidemark.OpenAPI, Logger: logger}, logger)
	c.edgeFlags.fill(&options)
	if options.TLS, err = c.tlsFlags.config(ctx, logger); err != nil {
		return err
	}
	options.Log = mutlog.New(s, options.Limits)
	options.Devices = devices.NewTracker(s, logger)
	holds := &export.Holds{Store: s, Logger: logger}
	if err := holds.Refresh(ctx); err != nil {
		return err
	}
	options.Held = holds.Held
	options.Resources = kinds
	options.Authenticate = server.Authenticator(authority)
	options.Ready = hasRoom(s)
	stopTraces, err := observe(ctx, &options, figures, logger)
	if err != nil {
		return err
	}
	defer stopTraces()
	options.Tickets = authority
	var stopWebhook func()
	if options.Pushed, stopWebhook, err = c.webhook(logger); err != nil {
		return err
	}
	defer stopWebhook()
	api := server.New(options)
	figures.WatchServer(api)
	figures.WatchStore(s)
	if c.Pprof != "" {
		stopProfiles, err := serveProfiles(c.Pprof)
		if err != nil {
			return err
		}
		defer stopProfiles()
	}
	stopUpkeep, err := c.upkeep(ctx, admin.Options{Store: s, Authority: authority, Devices: options.Devices, Holds: holds, Figures: figures.Handler(), Logger: logger}, figures, options.TLS)
	if err != nil {
		return err
	}
	defer stopUpkeep()
	c.greet(ctx, io, l.Addr(), authority)
	return c.serve(ctx, api, l, s, func() { stopAuthority(); stopUpkeep() }, logger)
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
