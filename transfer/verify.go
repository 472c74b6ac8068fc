package transfer

import (
	"context"
	"fmt"
	"iter"
	"math/rand/v2"
	"reflect"

	"tidemark/mutlog"
)

// verify compares what both stores have, and what they answer to pulls, and
// checks every rule of the target.
func (m *Migration) verify(ctx context.Context) error {
	if err := m.sameRecords(ctx); err != nil {
		return err
	}
	err := m.each(ctx, m.From, m.Verified, func(ctx context.Context, user mutlog.User) error {
		if err := Same(ctx, m.From, m.To, user); err != nil {
			return fmt.Errorf("the log of %q: %w", user, err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = m.each(ctx, m.To, nil, func(ctx context.Context, user mutlog.User) error {
		head, err := mutlog.New(m.From, mutlog.DefaultLimits).Head(ctx, user)
		if err == nil && head == mutlog.Beginning {
			err = fmt.Errorf("%w: only the target has a log of %q", ErrDiffers, user)
		}
		return err
	})
	if err != nil {
		return err
	}
	problems := 0
	var first string
	err = mutlog.Check(ctx, m.To, func(problem string) {
		if problems++; problems == 1 {
			first = problem
		}
	})
	if err == nil && problems > 0 {
		err = fmt.Errorf("the target is unsound: %d problems, the first: %s", problems, first)
	}
	return err
}

// sameRecords compares the records.
func (m *Migration) sameRecords(ctx context.Context) error {
	next, stop := iter.Pull2(m.To.Records(ctx, "", ""))
	defer stop()
	take := func() (mutlog.Record, bool, error) {
		r, err, ok := next()
		if ok && err == nil && r.RecordKey == record {
			r, err, ok = next()
		}
		return r, ok, err
	}
	for want, err := range m.From.Records(ctx, "", "") {
		if err != nil {
			return err
		}
		switch got, ok, err := take(); {
		case err != nil:
			return err
		case !ok || !reflect.DeepEqual(got, want):
			return fmt.Errorf("%w: the record %q of %q", ErrDiffers, want.Kind, want.Owner)
		}
	}
	if more, ok, err := take(); err != nil || ok {
		return fmt.Errorf("%w: only the target has a record %q of %q (%v)", ErrDiffers, more.Kind, more.Owner, err)
	}
	return nil
}

// Same returns ErrDiffers, with where it is, unless the log of user is the same
// in both stores: every batch with all that makes it one, the bounds, and the
// answers to pulls of the beginning and of cursors here and there.
func Same(ctx context.Context, from, to mutlog.Store, user mutlog.User) error {
	fromBounds, err := boundsOf(ctx, from, user)
	if err != nil {
		return err
	}
	toBounds, err := boundsOf(ctx, to, user)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(fromBounds, toBounds) {
		return fmt.Errorf("%w: bounds %v and %v", ErrDiffers, fromBounds, toBounds)
	}
	cursors, err := sameBatches(ctx, from, to, user)
	if err != nil {
		return err
	}
	for _, cursor := range append(cursors, mutlog.Beginning, 0) {
		for _, history := range []bool{false, true} {
			if history && cursor <= 0 {
				continue // the batches were that already
			}
			if err := samePull(ctx, from, to, user, mutlog.Query{Since: cursor, History: history}); err != nil {
				return fmt.Errorf("%w, of a pull of %d", err, cursor)
			}
		}
	}
	return nil
}

// someCursors is how many cursors of a log are tried.
const someCursors = 4

// sameBatches compares batch by batch, and returns some of the log's cursors.
func sameBatches(ctx context.Context, from, to mutlog.Store, user mutlog.User) (cursors []mutlog.Timestamp, err error) {
	n := 0
	err = same(Batches(ctx, from, user, mutlog.Beginning), Batches(ctx, to, user, mutlog.Beginning), func(b *mutlog.Batch) {
		if n++; len(cursors) < someCursors {
			cursors = append(cursors, b.Head())
		} else if i := rand.IntN(n); i < someCursors { // each with the same chance
			cursors[i] = b.First()
		}
	})
	return cursors, err
}

// samePull compares the answers to a pull, refusals included.
func samePull(ctx context.Context, from, to mutlog.Store, user mutlog.User, q mutlog.Query) error {
	want, err1 := mutlog.New(from, mutlog.DefaultLimits).Pull(ctx, user, q)
	got, err2 := mutlog.New(to, mutlog.DefaultLimits).Pull(ctx, user, q)
	switch {
	case err1 != nil || err2 != nil:
		if fmt.Sprint(err1) != fmt.Sprint(err2) {
			return fmt.Errorf("%w: answered %v and %v", ErrDiffers, err1, err2)
		}
		return nil
	case want.Head != got.Head:
		return fmt.Errorf("%w: heads %d and %d", ErrDiffers, want.Head, got.Head)
	}
	return same(singly(want.All(ctx)), singly(got.All(ctx)), func(mutlog.Mutation) {})
}

// singly yields one at a time what pulls yield in stretches.
func singly(stretches iter.Seq2[[]mutlog.Mutation, error]) iter.Seq2[mutlog.Mutation, error] {
	return func(yield func(mutlog.Mutation, error) bool) {
		for mutations, err := range stretches {
			if err != nil {
				yield(mutlog.Mutation{}, err)
				return
			}
			for _, m := range mutations {
				if !yield(m, nil) {
					return
				}
			}
		}
	}
}

// same returns ErrDiffers at the first difference between two sequences, and
// calls each with what they have in common.
func same[T any](from, to iter.Seq2[T, error], each func(T)) error {
	next, stop := iter.Pull2(to)
	defer stop()
	for want, err := range from {
		if err != nil {
			return err
		}
		got, err, ok := next()
		switch {
		case err != nil:
			return err
		case !ok || !reflect.DeepEqual(want, got):
			return fmt.Errorf("%w: the source has %.200s, the target %.200s", ErrDiffers, fmt.Sprintf("%+v", want), fmt.Sprintf("%+v", got))
		}
		each(want)
	}
	if got, err, ok := next(); ok {
		return fmt.Errorf("%w: only the target has %.200s (%v)", ErrDiffers, fmt.Sprintf("%+v", got), err)
	}
	return nil
}
