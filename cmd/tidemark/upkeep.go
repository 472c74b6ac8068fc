package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"sync"

	"tidemark/admin"
	"tidemark/backup"
	"tidemark/store"
	"tidemark/telemetry"
)

// upkeep begins what goes on beside requests: the server makes backups, notes
// what it sees of devices, and answers operators. This must end once no request is
// under way and before the store is closed.
func (c *serveCommand) upkeep(ctx context.Context, o admin.Options, figures *telemetry.Metrics, health *upkeepHealth, config *tls.Config, work *background) error {
	schedule, err := c.schedule(o.Store, o.Logger)
	if err != nil {
		return err
	}
	if bolt, ok := o.Store.(*store.Bolt); ok {
		o.Backup = func(ctx context.Context, file string, b backup.Options) (*backup.Manifest, error) {
			b.Finish = finishApart
			return backup.Make(ctx, bolt, file, b)
		}
	}
	// Requests go on for a while after ctx.
	lasting, cancelLasting := context.WithCancel(context.WithoutCancel(ctx))
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { o.Devices.Run(lasting) })
	running.Go(func() { o.Holds.Run(lasting) })
	running.Go(func() { c.retentionFlags.janitor(o.Store, figures, health, o.Logger).Run(ctx) })
	if schedule != nil {
		figures.WatchBackups(schedule)
		running.Go(func() { schedule.Run(ctx) })
	}
	work.until(func() {
		cancel()
		cancelLasting()
		running.Wait()
	})
	operators := admin.NewHandler(o)
	if !store.IsDatabase(c.Store) { // which any process can open
		c.offerAdmin(ctx, &running, operators, o.Logger)
	}
	return c.listenForOperators(ctx, &running, operators, config, o.Logger)
}

// offerAdmin serves the socket beside the store. Without it the store is served
// all the same, and operators must stop the server to do something.
func (c *serveCommand) offerAdmin(ctx context.Context, running *sync.WaitGroup, h *admin.Handler, logger *slog.Logger) {
	l, err := admin.Listen(c.Store)
	if err != nil {
		logger.Warn("there is no control socket: commands such as token and user work only while the server is stopped", "error", err)
		return
	}
	running.Go(func() {
		if err := admin.Serve(ctx, l, h); err != nil {
			logger.Error("the control socket failed", "error", err)
		}
	})
}
