package backup

import (
	"context"

	"tidemark/mutlog"
)

// Counted is a store as a check reads it: Read is told how many batches have been
// read so far.
type Counted struct {
	mutlog.Store
	Read func(batches int64)

	done int64
}

// View implements mutlog.Store.
func (c *Counted) View(ctx context.Context, user mutlog.User, fn func(mutlog.Reader) error) error {
	return c.Store.View(ctx, user, func(tx mutlog.Reader) error { return fn(&countedReader{tx, c}) })
}

type countedReader struct {
	mutlog.Reader
	store *Counted
}

// Batches implements mutlog.Reader. A check that goes through a log asks for
// many, and where it looks back, for one.
func (r *countedReader) Batches(after mutlog.Timestamp, n int) ([]*mutlog.Batch, error) {
	batches, err := r.Reader.Batches(after, n)
	if n > 1 {
		r.store.done += int64(len(batches))
		r.store.Read(r.store.done)
	}
	return batches, err
}
