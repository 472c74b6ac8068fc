package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"tidemark/mutlog"
)

// Errors of a migration.
var (
	// ErrNotEmpty: the target has logs or records, and not from a migration
	// that was interrupted.
	ErrNotEmpty = errors.New("the target is not empty")

	// ErrOtherSource: the target has a part of another store.
	ErrOtherSource = errors.New("the target holds a part of another store")

	// ErrDiffers: what was copied is not what the source has.
	ErrDiffers = errors.New("source and target differ")

	// ErrUnfinished: the store is the target of a migration that was
	// interrupted. It has a part of the logs, and must not be served.
	ErrUnfinished = errors.New("holds a part of another store: a migration to it was interrupted; run it again")
)

// record marks the target of a migration until the migration has ended.
var record = mutlog.RecordKey{Kind: "migration", Name: "source"}

// Unfinished returns ErrUnfinished if store is the target of a migration that
// has not ended.
func Unfinished(ctx context.Context, store mutlog.Store) error {
	value, err := store.Record(ctx, record)
	if err == nil && value != nil {
		err = ErrUnfinished
	}
	return err
}

// Migration copies all that one store has to another: logs with their receipts
// and bounds, fences, and records. Nobody else may use either store meanwhile.
type Migration struct {
	From, To mutlog.Store

	// Source names From in To until the migration has ended, so that an
	// interrupted one is not continued from another store.
	Source string

	// Workers is how many logs are copied at a time, so that their batches can
	// share commits; 0 is DefaultWorkers.
	Workers int

	// Copied and Verified, if set, are called with how many of the logs have
	// been, from several goroutines.
	Copied, Verified func(done, total int64)
}

// DefaultWorkers is how many logs are copied at a time unless told otherwise.
const DefaultWorkers = 16

// Summary is what a run has copied: of an interrupted migration, the rest.
type Summary struct{ Records, Logs, Batches, Mutations int64 }

// Run copies what is missing, compares both stores, and takes the mark off the
// target. It can be interrupted at any point, by ctx or by the end of the
// process, and goes on where it was when it is run again.
func (m *Migration) Run(ctx context.Context) (*Summary, error) {
	if err := m.begin(ctx); err != nil {
		return nil, err
	}
	var sum Summary
	if err := m.fence(ctx); err != nil {
		return nil, err
	}
	if err := m.records(ctx, &sum); err != nil {
		return nil, fmt.Errorf("copying records: %w", err)
	}
	if err := m.logs(ctx, &sum); err != nil {
		return nil, err
	}
	if err := m.verify(ctx); err != nil {
		return nil, err
	}
	return &sum, m.To.UpdateRecord(ctx, record, func([]byte) ([]byte, error) { return nil, nil })
}

// begin marks the target, unless an interrupted migration has.
func (m *Migration) begin(ctx context.Context) error {
	mark, err := json.Marshal(struct {
		Source string `json:"source"`
	}{m.Source})
	if err != nil {
		return err
	}
	present, err := m.To.Record(ctx, record)
	if err != nil {
		return err
	}
	if present == nil {
		if err := empty(ctx, m.To); err != nil {
			return err
		}
	}
	return m.To.UpdateRecord(ctx, record, func(old []byte) ([]byte, error) {
		if old != nil && string(old) != string(mark) {
			return nil, fmt.Errorf("%w: %s", ErrOtherSource, old)
		}
		return mark, nil
	})
}

// empty returns ErrNotEmpty if store has a log or a record.
func empty(ctx context.Context, store mutlog.Store) error {
	for _, err := range store.Records(ctx, "", "") {
		if err == nil {
			err = ErrNotEmpty
		}
		return err
	}
	return store.Users(ctx, func(mutlog.User) error { return ErrNotEmpty })
}

// fence makes the target refuse the cursors of users who have no log, of whom the
// source does not tell: they have seen one that was erased, or that a restore
// has lost. The logs that are copied keep the bounds that they had.
func (m *Migration) fence(ctx context.Context) error {
	to, err := boundsOf(ctx, m.To, nobody)
	if err != nil || len(to.Gaps) > 0 {
		return err // an interrupted migration has done it
	}
	from, err := boundsOf(ctx, m.From, nobody)
	if err != nil {
		return err
	}
	at := mutlog.Timestamp(time.Now().UnixMilli())
	for _, gap := range from.Gaps {
		at = max(at, gap.Until)
	}
	return m.To.Fence(ctx, at)
}

// nobody is no user, and so has what every log has without one: the fences.
const nobody mutlog.User = ""

func boundsOf(ctx context.Context, store mutlog.Store, user mutlog.User) (bounds mutlog.Bounds, err error) {
	err = store.View(ctx, user, func(tx mutlog.Reader) (err error) {
		bounds, err = tx.Bounds()
		return err
	})
	return bounds, err
}

// records copies the records, and removes what the source has no more: a token
// that was revoked since the migration was interrupted must not come back.
func (m *Migration) records(ctx context.Context, sum *Summary) error {
	for r, err := range m.From.Records(ctx, "", "") {
		if err != nil {
			return err
		}
		if r.RecordKey == record {
			return fmt.Errorf("the source %w", ErrUnfinished)
		}
		if err := put(ctx, m.To, r); err != nil {
			return err
		}
		sum.Records++
	}
	for r, err := range m.To.Records(ctx, "", "") {
		if err != nil {
			return err
		}
		if r.RecordKey == record {
			continue
		}
		switch value, err := m.From.Record(ctx, r.RecordKey); {
		case err != nil:
			return err
		case value == nil:
			if err := put(ctx, m.To, mutlog.Record{RecordKey: r.RecordKey}); err != nil {
				return err
			}
		}
	}
	return nil
}

func put(ctx context.Context, store mutlog.Store, r mutlog.Record) error {
	return store.UpdateRecord(ctx, r.RecordKey, func([]byte) ([]byte, error) { return r.Value, nil })
}

// logs copies the logs, several at a time.
func (m *Migration) logs(ctx context.Context, sum *Summary) error {
	return m.each(ctx, m.From, m.Copied, func(ctx context.Context, user mutlog.User) error {
		if err := m.log(ctx, user, sum); err != nil {
			return fmt.Errorf("copying the log of %q: %w", user, err)
		}
		atomic.AddInt64(&sum.Logs, 1)
		return nil
	})
}

// log copies what is missing of one log.
func (m *Migration) log(ctx context.Context, user mutlog.User, sum *Summary) error {
	from, err := boundsOf(ctx, m.From, user)
	if err != nil {
		return err
	}
	to, err := boundsOf(ctx, m.To, user)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(from, to) {
		if err := SetBounds(ctx, m.To, user, from); err != nil {
			return err
		}
	}
	head := mutlog.Beginning
	err = m.To.View(ctx, user, func(tx mutlog.Reader) (err error) {
		head, err = tx.Head()
		return err
	})
	if err != nil {
		return err
	}
	return Append(ctx, m.To, user, Batches(ctx, m.From, user, head), func(b *mutlog.Batch) {
		atomic.AddInt64(&sum.Batches, 1)
		atomic.AddInt64(&sum.Mutations, int64(len(b.Entries)))
	})
}

// each calls fn for every user of a store, in several goroutines, and done after
// each.
func (m *Migration) each(ctx context.Context, store mutlog.Store, report func(done, total int64), fn func(context.Context, mutlog.User) error) error {
	var total, done atomic.Int64
	if report == nil {
		report = func(int64, int64) {}
	} else if err := store.Users(ctx, func(mutlog.User) error { total.Add(1); return nil }); err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	if group.SetLimit(DefaultWorkers); m.Workers > 0 {
		group.SetLimit(m.Workers)
	}
	err := store.Users(ctx, func(user mutlog.User) error {
		group.Go(func() error {
			err := fn(ctx, user)
			report(done.Add(1), total.Load())
			return err
		})
		return ctx.Err()
	})
	if failed := group.Wait(); failed != nil {
		return failed
	}
	return err
}
