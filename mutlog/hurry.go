package mutlog

import (
	"context"
	"time"
)

type hurryKey struct{}

// Hurry returns a context for what a request asks until it is answered: a store
// that waits for another machine each time it is asked should be done with all of
// that at the time by, be it with ErrUnavailable. What is asked later has all time
// again: it was not the store that took so long.
func Hurry(ctx context.Context, by time.Time) context.Context {
	return context.WithValue(ctx, hurryKey{}, by)
}

// HurryOf returns the time that Hurry was given; false if there is none.
func HurryOf(ctx context.Context) (by time.Time, ok bool) {
	by, _ = ctx.Value(hurryKey{}).(time.Time)
	return by, !by.IsZero()
}

// atLeisure takes the hurry from a context: what is answered piece by piece may
// take its time.
func atLeisure(ctx context.Context) context.Context {
	if _, ok := HurryOf(ctx); ok {
		return Hurry(ctx, time.Time{})
	}
	return ctx
}
