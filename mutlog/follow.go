package mutlog

import "context"

// Follow is that of the store: it calls heard with the heads of logs that were
// pushed to, through whatever process, and missed when it may have missed some.
func (l *Log) Follow(ctx context.Context, heard func(User, Timestamp), missed func()) error {
	return l.store.Follow(ctx, heard, missed)
}
