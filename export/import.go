package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"tidemark/mutlog"
	"tidemark/transfer"
)

// Errors of Import.
var (
	// ErrNotEmpty: the user has a log already.
	ErrNotEmpty = errors.New("there is a log of this user already")

	// ErrOther: the log is a part of another export.
	ErrOther = errors.New("another export is being read into the log of this user")
)

// Import reads an export into a log that is empty.
type Import struct {
	Store mutlog.Store

	// User is whose log it becomes; "" is whose it was.
	User mutlog.User

	// Held, if it is not nil, is what this very server refuses users by.
	Held *Holds

	// Settle is how long servers may take to notice that the log is not whole,
	// and must not be served.
	Settle time.Duration

	// Progress, if it is not nil, is told how many mutations have been read.
	Progress func(mutations int64)
}

// Summary is what an import has read.
type Summary struct {
	User      mutlog.User      `json:"user"`
	Head      mutlog.Timestamp `json:"head"`
	Batches   int64            `json:"batches"`
	Mutations int64            `json:"mutations"`
}

// Run reads the export in r. Until it has been read to its end and every rule of
// the log holds, servers refuse the user (Holds), so that no device takes a part
// for the whole. An import that is interrupted goes on where it was when it is
// run again with the same export.
func (i *Import) Run(ctx context.Context, r io.Reader) (*Summary, error) {
	in, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	user := i.User
	if user == "" {
		user = in.Header.User
	}
	if !user.Valid() {
		return nil, fmt.Errorf("%w: it is of nobody who can be a user", ErrFormat)
	}
	if err := i.begin(ctx, user, &in.Header); err != nil {
		return nil, err
	}
	sum := &Summary{User: user, Head: in.Header.Head}
	if err := i.batches(ctx, user, in, sum); err != nil {
		return nil, err
	}
	if err := i.check(ctx, user, in.Header.Head); err != nil {
		return nil, err
	}
	err = i.Store.UpdateRecord(ctx, key(user), func([]byte) ([]byte, error) { return nil, nil })
	if err == nil && i.Held != nil {
		err = i.Held.Refresh(ctx)
	}
	return sum, err
}

// kindImport is that of the records of imports that have not ended.
const kindImport = "import"

func key(user mutlog.User) mutlog.RecordKey {
	return mutlog.RecordKey{Kind: kindImport, Owner: string(user)}
}

// begin marks the log as one that is not whole, and gives it its bounds.
func (i *Import) begin(ctx context.Context, user mutlog.User, h *Header) error {
	mark, err := json.Marshal(h)
	if err != nil {
		return err
	}
	head, bounds, err := state(ctx, i.Store, user)
	if err != nil {
		return err
	}
	err = i.Store.UpdateRecord(ctx, key(user), func(old []byte) ([]byte, error) {
		switch {
		case old == nil && head != mutlog.Beginning:
			return nil, ErrNotEmpty
		case old != nil && !bytes.Equal(old, mark):
			return nil, ErrOther
		}
		return mark, nil
	})
	if err == nil && i.Held != nil {
		err = i.Held.Refresh(ctx)
	}
	if err != nil || head != mutlog.Beginning {
		return err
	}
	select {
	case <-time.After(i.Settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	return transfer.SetBounds(ctx, i.Store, user, join(h, bounds))
}

// join returns the bounds of an imported log: those it had, and what is later
// than its head of the gaps that were here, where it was erased or the store
// restored since. Those of the same store are the same.
func join(h *Header, here mutlog.Bounds) mutlog.Bounds {
	bounds := h.Bounds.bounds()
	for _, gap := range here.Gaps {
		if gap.After = max(gap.After, h.Head); gap.After < gap.Until && !slices.Contains(bounds.Gaps, gap) {
			bounds.Gaps = append(bounds.Gaps, gap)
		}
	}
	return bounds
}

// State returns the head and the bounds of a log.
func State(ctx context.Context, store mutlog.Store, user mutlog.User) (head mutlog.Timestamp, bounds Bounds, err error) {
	head, b, err := state(ctx, store, user)
	return head, boundsOf(b), err
}

// Unfinished tells whether an import into the log of user has not ended.
func Unfinished(ctx context.Context, store mutlog.Store, user mutlog.User) (bool, error) {
	mark, err := store.Record(ctx, key(user))
	return mark != nil, err
}

func state(ctx context.Context, store mutlog.Store, user mutlog.User) (head mutlog.Timestamp, bounds mutlog.Bounds, err error) {
	err = store.View(ctx, user, func(tx mutlog.Reader) (err error) {
		if head, err = tx.Head(); err != nil {
			return err
		}
		bounds, err = tx.Bounds()
		return err
	})
	return head, bounds, err
}

// batches appends what the log does not have yet.
func (i *Import) batches(ctx context.Context, user mutlog.User, in *Reader, sum *Summary) error {
	head, _, err := state(ctx, i.Store, user)
	if err != nil {
		return err
	}
	missing := func(yield func(*mutlog.Batch, error) bool) {
		for b, err := range in.Batches() {
			if err == nil {
				err = plausible(b, in.Header.Head)
			}
			if err == nil {
				sum.Batches++
				sum.Mutations += int64(len(b.Entries))
				if i.Progress != nil {
					i.Progress(sum.Mutations)
				}
				if b.Head() <= head {
					continue
				}
			}
			if !yield(b, err) {
				return
			}
		}
	}
	return transfer.Append(ctx, i.Store, user, iter.Seq2[*mutlog.Batch, error](missing), func(*mutlog.Batch) {})
}

// plausible refuses a batch that no log has, before it is in one.
func plausible(b *mutlog.Batch, head mutlog.Timestamp) error {
	last := b.Previous
	for i := range b.Entries {
		e := &b.Entries[i]
		if e.Timestamp <= last || e.Timestamp > head {
			return fmt.Errorf("%w: mutation %d is out of order", ErrFormat, e.Timestamp)
		}
		last = e.Timestamp
		if e.Type == mutlog.Update && e.State == nil {
			return fmt.Errorf("%w: mutation %d has no state", ErrFormat, e.Timestamp)
		}
	}
	if b.Base > b.Previous || b.Previous < mutlog.Beginning || b.Base < mutlog.Beginning {
		return fmt.Errorf("%w: batch %d was pushed on %d behind %d", ErrFormat, b.First(), b.Base, b.Previous)
	}
	return nil
}

// check verifies every rule of the log that was read.
func (i *Import) check(ctx context.Context, user mutlog.User, want mutlog.Timestamp) error {
	problem := ""
	err := i.Store.View(ctx, user, func(tx mutlog.Reader) error {
		head, err := tx.Head()
		if err != nil {
			return err
		}
		if head != want {
			return fmt.Errorf("%w: it ends with %d, and should with %d", ErrFormat, head, want)
		}
		return mutlog.CheckUser(tx, user, func(p string) {
			if problem == "" {
				problem = p
			}
		})
	})
	if err == nil && problem != "" {
		err = fmt.Errorf("%w: %s", ErrFormat, problem)
	}
	return err
}
