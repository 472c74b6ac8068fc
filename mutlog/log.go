package mutlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// Log is all that a server may ask of the logs of its users.
type Log struct {
	store  Store
	limits Limits

	// Now is the clock that stamps mutations.
	Now func() time.Time

	// NewID makes the identifiers of resources that come without one: ULIDs.
	NewID func() string
}

// New returns the logs that store keeps.
func New(store Store, limits Limits) *Log {
	return &Log{store: store, limits: limits, Now: time.Now, NewID: func() string { return ulid.Make().String() }}
}

// Head returns the head of the log of user, or Beginning while it is empty.
func (l *Log) Head(ctx context.Context, user User) (head Timestamp, err error) {
	err = l.store.View(ctx, user, func(tx Reader) error {
		head, err = tx.Head()
		return err
	})
	return head, err
}

// HeadReader is a Store that reads many heads with one question.
type HeadReader interface {
	// Heads returns the heads of those of the logs of users that there are.
	Heads(ctx context.Context, users []User) (map[User]Timestamp, error)
}

// Expecter is a Tx that reads with the head what it is told that it will be asked
// for: where each question is a way to another machine, that saves some.
type Expecter interface {
	// Expect comes before all else: Newest will be asked for refs as of the head,
	// and BatchByKey for key unless that is "". It may be wrong.
	Expect(refs []Ref, key string)
}

// Heads calls fn with the head of each of the logs of users that is not empty. It
// goes on where one cannot be read, and returns the errors of all.
func (l *Log) Heads(ctx context.Context, users []User, fn func(User, Timestamp)) (all error) {
	if many, ok := l.store.(HeadReader); ok {
		heads, err := many.Heads(ctx, users)
		for user, head := range heads {
			fn(user, head)
		}
		return err
	}
	for _, user := range users {
		head, err := l.Head(ctx, user)
		if err == nil && head > Beginning {
			fn(user, head)
		}
		all = errors.Join(all, err)
	}
	return all
}

// Push is a batch of mutations that a device wants applied.
type Push struct {
	Base      Timestamp  // the cursor of the device
	Mutations []Mutation // as DecodePush returns them
	Client    string     // the x-client-id, or ""
	Key       string     // the Idempotency-Key, or ""
	Merge     bool       // apply it behind what it does not collide with
	Access    Access     // with which the mutations were decoded
}

// Pushed is the answer to a push.
type Pushed struct {
	// Head is the head of the log after the batch, at the time it was applied.
	Head Timestamp

	// Mutations are those of the push in its order, with the identifiers and
	// timestamps they got and the data of their resources after each.
	Mutations []Mutation

	// Replayed tells that the batch had been applied before.
	Replayed bool

	// Changes is what a pull of the push's cursor would have answered just
	// before the batch; nil unless the push asks to be merged or was merged
	// when it was applied: a device that takes Head as its own must have them.
	Changes *Changes
}

// Push applies p whole or not at all, durably before it returns, and at most
// once however often p comes (rules 7 to 12). It refuses with *OutOfSyncError,
// ErrKeyReused or *ValidationError (rules 21, 22 and 24, too); then nothing has
// changed.
func (l *Log) Push(ctx context.Context, user User, p Push) (*Pushed, error) {
	created := p.Access.Kinds.created(p.Mutations)
	var counted *census
	for {
		pushed, err := l.push(ctx, user, &p, created, counted)
		if err != errUncounted {
			return pushed, err
		}
		if counted, err = l.count(ctx, user); err != nil {
			return nil, err
		}
	}
}

// push is one try of a push: errUncounted asks for another with a census.
// created is what schemas found in its CREATEs.
func (l *Log) push(ctx context.Context, user User, p *Push, created [][]Violation, counted *census) (*Pushed, error) {
	var batch *Batch
	var replayed bool
	var head, since Timestamp
	err := l.store.Update(ctx, user, func(tx Tx) (err error) {
		if tx, ok := tx.(Expecter); ok {
			tx.Expect(refs(p.Mutations), p.Key)
		}
		if head, err = tx.Head(); err != nil {
			return err
		}
		bounds, err := tx.Bounds()
		if err != nil {
			return err
		}
		batch, err = receipt(tx, head, p)
		if err != nil {
			return err
		}
		if replayed = batch != nil; replayed {
			since, err = retell(batch, head, &bounds, p)
			return err
		}
		if err := admit(tx, head, &bounds, p); err != nil {
			return firstOf(created, err)
		}
		if len(p.Mutations) == 0 {
			return nil
		}
		ledger, err := l.ledger(tx, head, p, counted)
		if err != nil {
			return err
		}
		if batch, err = l.apply(tx, head, &bounds, p, created, ledger); err != nil {
			return err
		}
		return tx.Append(batch)
	})
	if err != nil {
		return nil, err
	}
	if batch == nil {
		batch = &Batch{Base: p.Base, Previous: head}
	}
	if !replayed {
		since = p.Base
	}
	return l.pushed(user, p, batch, replayed, since), nil
}

// admit checks the cursor of a push (rules 8, 9, 12, 17 and 18).
func admit(tx Reader, head Timestamp, bounds *Bounds, p *Push) error {
	if p.Base == head && bounds.refuses(head) == "" { // a log that is being erased is in a gap
		return nil
	}
	refusal := &OutOfSyncError{Reason: StaleCursor, Client: p.Base, Server: head}
	switch {
	case head == Beginning:
		refusal.Reason = FirstSync
	case p.Base > head:
		refusal.Reason = CursorAhead
	default:
		refusal.Reason = cmp.Or(bounds.refuses(p.Base), StaleCursor)
	}
	var err error
	if refusal.Conflicts, err = conflicts(tx, head, p); err != nil {
		return err
	}
	if p.Merge && refusal.Reason == StaleCursor && len(refusal.Conflicts) == 0 {
		return nil
	}
	return refusal
}

// retell returns the cursor since which the answer to the repeat of a push tells
// the changes. It refuses if the log cannot tell them any more (rules 12, 17 and
// 18), unless the device has pulled them since: with its key the repeat would be
// refused again and again.
func retell(batch *Batch, head Timestamp, bounds *Bounds, p *Push) (since Timestamp, err error) {
	reason := bounds.refuses(batch.Base)
	switch {
	case reason == "", batch.Base == batch.Previous:
		return batch.Base, nil
	case batch.Head() <= p.Base && p.Base <= head && bounds.refuses(p.Base) == "":
		return p.Base, nil
	}
	return 0, &OutOfSyncError{Reason: reason, Client: batch.Base, Server: head, Conflicts: []Conflict{}}
}

// firstOf returns the refusal for what is wrong with the data of CREATEs, which
// no pull will mend, in the place of one for the cursor.
func firstOf(created [][]Violation, err error) error {
	var faults faults
	for i, found := range created {
		faults.violations(i, found)
	}
	if refusal := faults.err(); refusal != nil && errors.As(err, new(*OutOfSyncError)) {
		return refusal
	}
	return err
}

// apply makes the batch that p becomes on top of head (rules 3, 6, 7 and 17).
// created is what schemas found in its CREATEs, ledger what is live before it.
func (l *Log) apply(tx Reader, head Timestamp, bounds *Bounds, p *Push, created [][]Violation, ledger *ledger) (*Batch, error) {
	first, err := next(l.Now(), max(head, bounds.End()), len(p.Mutations))
	if err != nil {
		return nil, err
	}
	newest, err := tx.Newest(refs(p.Mutations), head)
	if err != nil {
		return nil, err
	}
	batch := &Batch{Base: p.Base, Previous: head, Client: p.Client, Key: p.Key, Entries: make([]Entry, len(p.Mutations))}
	inBatch := make(map[Ref]*Entry, len(p.Mutations))
	var faults faults
	for i, m := range p.Mutations {
		e := &batch.Entries[i]
		e.Mutation = m
		e.Timestamp = first + Timestamp(i)
		if e.Assigned = m.ResourceID == ""; e.Assigned {
			e.ResourceID = l.NewID()
		}
		before := inBatch[e.Ref()]
		if before == nil {
			before = newest[i]
		}
		e.follow(before)
		kind := p.Access.Kinds[e.Resource]
		if most := kind.dataBytes(l.limits); len(e.State) > most {
			faults.at(i, "data", fmt.Sprintf("Data must not exceed %d bytes", most), "")
		}
		if kind.isComposite() {
			kind.checkKey(e, before, i, &faults)
		}
		if e.Type == Update {
			faults.violations(i, kind.validate(e.State))
		} else if created != nil {
			faults.violations(i, created[i])
		}
		ledger.enter(e, before)
		inBatch[e.Ref()] = e
	}
	ledger.judge(l.limits.Quota, p.Access.Kinds, &faults)
	faults.sort()
	batch.Live = ledger.after()
	return batch, faults.err()
}

// follow sets what e leaves of its resource, whose newest mutation so far is
// before, or nil (rule 6).
func (e *Entry) follow(before *Entry) {
	var state []byte
	e.Prev, e.Born = Beginning, e.Timestamp
	if before != nil {
		if e.Prev = before.Timestamp; before.Live() {
			state, e.Born = before.State, before.Born
		}
	}
	switch e.Type {
	case Create:
		e.State = e.Data
	case Update:
		e.State = MergePatch(state, e.Data)
	case Delete:
		e.State, e.Born = nil, Beginning
	}
}

// pushed makes the answer to p, which has become batch. since is the cursor since
// which it tells the changes.
func (l *Log) pushed(user User, p *Push, batch *Batch, replayed bool, since Timestamp) *Pushed {
	answer := &Pushed{Head: batch.Previous, Replayed: replayed, Mutations: make([]Mutation, len(batch.Entries))}
	for i := range batch.Entries {
		e := &batch.Entries[i]
		answer.Mutations[i] = e.Mutation
		answer.Mutations[i].Data = p.Access.Kinds[e.Resource].leaving(e)
		answer.Head = e.Timestamp
	}
	if p.Merge || batch.Base != batch.Previous {
		answer.Changes = &Changes{Head: batch.Previous, log: l, user: user,
			query: Query{Since: since, Access: p.Access}, upTo: since}
	}
	return answer
}
