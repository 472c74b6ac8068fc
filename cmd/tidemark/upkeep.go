package main

import (
	"context"
	"log/slog"
	"sync"

	"tidemark/devices"
	"tidemark/store"
)

// upkeep begins what goes on beside requests: it makes backups and notes what
// was seen of devices. stop ends it, and must be called once no request is under
// way and before s is closed; to call it again does nothing.
func (c *serveCommand) upkeep(ctx context.Context, s store.Store, seen *devices.Tracker, logger *slog.Logger) (stop func(), err error) {
	schedule, err := c.schedule(s, logger)
	if err != nil {
		return nil, err
	}
	// Requests go on for a while after ctx.
	lasting, cancelLasting := context.WithCancel(context.WithoutCancel(ctx))
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { seen.Run(lasting) })
	if schedule != nil {
		running.Go(func() { schedule.Run(ctx) })
	}
	return func() {
		cancel()
		cancelLasting()
		running.Wait()
	}, nil
}
