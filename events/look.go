package events

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"tidemark/mutlog"
)

const (
	// lookAtOnce is how many heads are asked for with one question.
	lookAtOnce = 500

	// lookers is how many questions there are at the same time.
	lookers = 4

	// lookPatience is how long one question may take.
	lookPatience = 5 * time.Second

	// lookPause is how long the hub waits before it looks again at the heads
	// that it could not see.
	lookPause = 200 * time.Millisecond
)

// lookAgain looks at the heads of all logs that somebody waits for, each time
// that something may have been missed.
func (h *Hub) lookAgain(ctx context.Context) {
	for {
		select {
		case <-h.look:
		case <-ctx.Done():
			return
		}
		if err := h.lookAtAll(ctx); err != nil && ctx.Err() == nil {
			h.logger.Warn("the heads of some logs cannot be seen; trying again", "error", err)
			pause(ctx, lookPause)
			h.missed()
		}
	}
}

// lookAtAll tells the heads of all logs that somebody waits for, and returns why
// it could not see one of them.
func (h *Hub) lookAtAll(ctx context.Context) error {
	var g errgroup.Group
	g.SetLimit(lookers)
	for users := range slices.Chunk(h.waitedFor(), lookAtOnce) {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, lookPatience)
			defer cancel()
			return h.log.Heads(ctx, users, h.heard)
		})
	}
	return g.Wait()
}

// waitedFor returns the users whose logs somebody waits for.
func (h *Hub) waitedFor() []mutlog.User {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]mutlog.User, 0, len(h.users))
	for user := range h.users {
		all = append(all, user)
	}
	return all
}
