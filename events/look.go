package events

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"tidemark/mutlog"
)

const (
	// lookers is how many heads are looked at at the same time.
	lookers = 16

	// lookPatience is how long one look may take.
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
		if failed := h.lookAtAll(ctx); failed > 0 && ctx.Err() == nil {
			h.logger.Warn("the heads of some logs cannot be seen; trying again", "logs", failed)
			pause(ctx, lookPause)
			h.missed()
		}
	}
}

// lookAtAll tells the heads of all logs that somebody waits for, and returns
// how many it could not see.
func (h *Hub) lookAtAll(ctx context.Context) (failed int64) {
	users := make(chan mutlog.User)
	var unseen atomic.Int64
	var wg sync.WaitGroup
	for range lookers {
		wg.Go(func() {
			for user := range users {
				if h.lookAt(ctx, user) != nil {
					unseen.Add(1)
				}
			}
		})
	}
	for _, user := range h.waitedFor() {
		users <- user
	}
	close(users)
	wg.Wait()
	return unseen.Load()
}

// lookAt tells the head of the log of user.
func (h *Hub) lookAt(ctx context.Context, user mutlog.User) error {
	ctx, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	head, err := h.log.Head(ctx, user)
	if err == nil {
		h.heard(user, head)
	}
	return err
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
