package events

import (
	"context"

	"tidemark/mutlog"
)

// Wait returns when a pull of the cursor after has something to say: there is
// something later in the log of user, or the cursor is none of this log. It
// returns without an error, too, when ctx is done or the hub closes, because
// whoever waits then looks at the log, whatever the reason. Its errors are
// ErrUserLimit, ErrFull and those of looking at the head.
func (h *Hub) Wait(ctx context.Context, user mutlog.User, after mutlog.Timestamp) error {
	woken := make(chan struct{}, 1)
	wake := func() {
		select {
		case woken <- struct{}{}:
		default:
		}
	}
	s := &subscription{hub: h, user: user, kind: waits, end: wake, wake: func(head mutlog.Timestamp) {
		if head > after {
			wake()
		}
	}}
	if err := h.subscribe(s); err == ErrClosed {
		return nil
	} else if err != nil {
		return err
	}
	defer s.leave()
	head, err := h.log.Head(context.WithoutCancel(ctx), user)
	isLevel := head == after || head == mutlog.Beginning && after <= 0
	if err != nil || !isLevel {
		return err
	}
	select {
	case <-woken:
	case <-ctx.Done():
	}
	return nil
}
