// Package transfer copies logs and records from one store to another, of
// whatever kinds the two are: batch by batch, each with the timestamps, receipts
// and bounds that it has, so that a device goes on where it was and does not
// notice.
//
// Batches and Append are one log read and written that way, for whoever puts a
// form of its own in between, such as a file: a log that is read with Batches
// and given to Append of another store answers every pull, and every repeat of a
// push, as before. A log is its batches and its bounds; bounds go first.
//
// Migration copies a whole store, can be interrupted at any point, and verifies
// what it has done.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"tidemark/mutlog"
)

// ErrDiverged: the log that batches should be added to is not the beginning of
// the log that they come from.
var ErrDiverged = errors.New("the log has mutations of its own")

// step is about how many mutations are read at a time.
const step = 500

// Batches yields the batches of a log that have mutations later than after, in
// order, and reads them in steps: no transaction is open while a batch is being
// used, and what is appended meanwhile comes, too. It ends with its first error.
func Batches(ctx context.Context, store mutlog.Store, user mutlog.User, after mutlog.Timestamp) iter.Seq2[*mutlog.Batch, error] {
	return func(yield func(*mutlog.Batch, error) bool) {
		for {
			var batches []*mutlog.Batch
			err := store.View(ctx, user, func(tx mutlog.Reader) (err error) {
				batches, err = tx.Batches(after, step)
				return err
			})
			if err != nil {
				yield(nil, err)
				return
			}
			for _, b := range batches {
				if !yield(b, nil) {
					return
				}
				after = b.Head()
			}
			if len(batches) == 0 {
				return
			}
		}
	}
}

// Append adds batches to a log, as they are and each durably, and calls appended
// after each. The log must end with what the first of them follows; otherwise it
// fails with ErrDiverged. Interrupted, it goes on with Batches later than the
// head that it has reached.
func Append(ctx context.Context, store mutlog.Store, user mutlog.User, batches iter.Seq2[*mutlog.Batch, error], appended func(*mutlog.Batch)) error {
	for b, err := range batches {
		if err != nil {
			return err
		}
		err := store.Update(ctx, user, func(tx mutlog.Tx) error {
			head, err := tx.Head()
			if err != nil {
				return err
			}
			bounds, err := tx.Bounds()
			if err != nil {
				return err
			}
			if head != b.Previous && (head > b.Previous || bounds.Pruned < b.Previous) {
				return fmt.Errorf("%w: a batch follows %d, the head is %d", ErrDiverged, b.Previous, head)
			}
			return tx.Append(b)
		})
		if err != nil {
			return err
		}
		appended(b)
	}
	return nil
}

// SetBounds gives a log the bounds that it has elsewhere.
func SetBounds(ctx context.Context, store mutlog.Store, user mutlog.User, bounds mutlog.Bounds) error {
	return store.Update(ctx, user, func(tx mutlog.Tx) error { return tx.SetBounds(bounds) })
}
