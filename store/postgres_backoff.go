package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"tidemark/mutlog"
)

// backoff is how long to wait between tries of what others got in the way of.
type backoff struct {
	tries   int
	started time.Time
}

// maxTrying bounds for how long is tried.
const maxTrying = 2 * PostgresTimeout

// next waits before another try. It gives up with ctx, or when it has taken too long.
func (w *backoff) next(ctx context.Context) error {
	if w.tries++; w.tries == 1 {
		w.started = time.Now()
	}
	if time.Since(w.started) > maxTrying {
		return fmt.Errorf("%w: others were faster for %v", mutlog.ErrUnavailable, maxTrying)
	}
	if w.tries == 1 {
		return ctx.Err()
	}
	most := time.Millisecond << min(w.tries, 6)
	select {
	case <-time.After(rand.N(most)):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
