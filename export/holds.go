package export

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"tidemark/mutlog"
)

// Holds knows which logs are not whole, because an import has not ended. A
// server refuses their users meanwhile. There are hardly ever any, and then to
// ask costs next to nothing.
type Holds struct {
	Store  mutlog.Store
	Logger *slog.Logger

	mu   sync.Mutex // of Refresh
	held atomic.Pointer[map[mutlog.User]bool]
}

// HoldsEvery is how often servers look whether another process has begun an
// import; an import settles for some such times.
const HoldsEvery = 2 * time.Second

// Held tells whether the log of user must not be served.
func (h *Holds) Held(user mutlog.User) bool {
	held := h.held.Load()
	return held != nil && (*held)[user]
}

// Refresh reads which logs are not whole.
func (h *Holds) Refresh(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var held map[mutlog.User]bool
	for r, err := range h.Store.Records(ctx, kindImport, "") {
		if err != nil {
			return err
		}
		if held == nil {
			held = map[mutlog.User]bool{}
		}
		held[mutlog.User(r.Owner)] = true
	}
	if held == nil {
		h.held.Store(nil)
	} else {
		h.held.Store(&held)
	}
	return nil
}

// Run refreshes until ctx is done. Call Refresh once before anybody is served.
func (h *Holds) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(HoldsEvery):
		}
		if err := h.Refresh(ctx); err != nil && ctx.Err() == nil {
			h.Logger.Warn("which logs are being imported cannot be read", "error", err)
		}
	}
}
