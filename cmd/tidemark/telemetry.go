package main

import (
	"context"
	"fmt"

	"tidemark/server"
	"tidemark/store"
	"tidemark/telemetry"
)

// observe makes the figures, and the traces if the environment asks for them,
// see the requests of a server that has the options.
func observe(ctx context.Context, o *server.Options, figures *telemetry.Metrics, work *background) error {
	o.Observe = figures.Observe
	traces, err := telemetry.NewTraces(ctx, versionText(), o.Logger)
	if err != nil {
		return usageError("traces: %w", err)
	}
	if traces == nil {
		return nil
	}
	o.Observe = func(x *server.Exchange) {
		figures.Observe(x)
		traces.Observe(x)
	}
	work.until(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if err := traces.Close(ctx); err != nil {
			o.Logger.Warn("the last traces were not sent", "error", err)
		}
	})
	return nil
}

// minRoom is how much a store must be able to grow by: bbolt lets a file grow by
// 16 MiB at a time.
const minRoom = 32 << 20

// hasRoom fails when a store will soon have no room for pushes; a database says
// so by itself.
func hasRoom(s store.Store) func(context.Context) error {
	if bolt, ok := s.(*store.Bolt); ok {
		return roomIn(bolt)
	}
	return nil
}

// roomIn fails when the disk of a store, its free pages included, has no room
// for it to grow.
func roomIn(s interface {
	Disk() (free, size int64, err error)
	Stats() (store.BoltStats, error)
}) func(context.Context) error {
	return func(context.Context) error {
		free, _, err := s.Disk()
		if err != nil {
			return nil // it is not known
		}
		stats, err := s.Stats()
		if room := free + stats.FreeBytes; err == nil && room < minRoom {
			err = fmt.Errorf("the disk has room for %d bytes more", room)
		}
		return err
	}
}
