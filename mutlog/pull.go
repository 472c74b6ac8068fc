package mutlog

import (
	"context"
	"errors"
	"iter"
)

// stretch is how many mutations a pull reads in one transaction, so that none
// stays open while an answer travels and memory stays bounded (rule 15).
const stretch = 4096

// Query says what a pull wants.
type Query struct {
	// Since is the cursor of the device, to which the types of the changes
	// relate; Beginning asks for the snapshot.
	Since Timestamp

	// After continues a pull behind the change of this timestamp; changes up
	// to it are left out. It has no effect where it is not later than Since,
	// and is refused like that where it is later than the head.
	After Timestamp

	// Limit bounds the number of changes; 0 asks for all.
	Limit int

	// Page asks for the Page-th page of Limit changes, from 1; 0 for none.
	Page int64

	// Resources leaves out all but these kinds; empty asks for all.
	Resources []string

	// History asks for the raw log: each mutation as it was accepted.
	History bool

	// Access leaves out the kinds that it hides.
	Access Access
}

// Changes is a pull under way. What it yields is the state of the log as of
// Head, however long it takes and whatever is pushed meanwhile.
type Changes struct {
	// Head is the head of the log at the start of the pull.
	Head Timestamp

	// The following hold once Each has run to its end. HasMore tells that there
	// are changes behind a limit or page, NextAfter where a limit continues,
	// Total how many changes there are on all pages of a numbered pull.
	HasMore   bool
	NextAfter Timestamp
	Total     int64

	log       *Log
	user      User
	query     Query
	upTo      Timestamp       // up to which the log has been read
	resources map[string]bool // those wanted; nil for all
	given     int64           // how many changes have passed the filter
	out       Mutation        // the one being emitted
}

// Pull starts a pull of the log of user (rules 13 to 18). It refuses with
// *OutOfSyncError.
func (l *Log) Pull(ctx context.Context, user User, q Query) (*Changes, error) {
	c := &Changes{log: l, user: user, query: q, upTo: max(q.Since, q.After)}
	err := l.store.View(ctx, user, func(tx Reader) (err error) {
		if c.Head, err = tx.Head(); err != nil {
			return err
		}
		return vouch(tx, c.Head, &q)
	})
	if err != nil {
		return nil, err
	}
	if len(q.Resources) > 0 {
		c.resources = make(map[string]bool, len(q.Resources))
		for _, name := range q.Resources {
			c.resources[name] = true
		}
	}
	return c, nil
}

// vouch refuses a query whose cursor, or place to go on, is none that the log
// can vouch for (rules 13, 17 and 18). Where to go on cannot expire: what it
// relates to is the cursor.
func vouch(tx Reader, head Timestamp, q *Query) error {
	if q.Since == head && q.After <= head {
		return nil
	}
	bounds, err := tx.Bounds()
	if err != nil {
		return err
	}
	for _, cursor := range []Timestamp{q.Since, q.After} {
		reason := bounds.refuses(cursor)
		switch {
		case cursor > 0 && cursor > head:
			reason = CursorAhead
		case reason == CursorExpired && cursor != q.Since:
			reason = ""
		}
		if reason != "" {
			return &OutOfSyncError{Reason: reason, Client: cursor, Server: head}
		}
	}
	return nil
}

// Each calls emit with every change in order, and pause now and then. emit runs
// inside a transaction: it must neither wait nor keep what it is given. pause
// runs outside of any, and an error of it ends the pull. Each may be called
// once. After an error, what was emitted is not all. It refuses, with
// *OutOfSyncError, to go on once the log cannot vouch for the cursor any more.
func (c *Changes) Each(ctx context.Context, emit func(*Mutation), pause func() error) error {
	ctx = atLeisure(ctx)
	for c.upTo < c.Head && (!c.HasMore || c.query.Page > 0) {
		err := ctx.Err()
		if err == nil {
			err = c.log.store.View(ctx, c.user, func(tx Reader) error { return c.stretch(tx, emit) })
		}
		if err == nil {
			err = pause()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// All yields every change in order, in slices that belong to the caller. It may
// be ranged over once. After an error it ends, and what it yielded is not all.
func (c *Changes) All(ctx context.Context) iter.Seq2[[]Mutation, error] {
	return func(yield func([]Mutation, error) bool) {
		var out []Mutation
		emit := func(m *Mutation) {
			out = append(out, m.clone())
		}
		stopped := errors.New("the caller wants no more")
		err := c.Each(ctx, emit, func() error {
			if len(out) > 0 && !yield(out, nil) {
				return stopped
			}
			out = nil
			return nil
		})
		if err != nil && err != stopped {
			yield(nil, err)
		}
	}
}

// stretch reads the next stretch of the log and emits what the query asks for.
func (c *Changes) stretch(tx Reader, emit func(*Mutation)) error {
	head, err := tx.Head()
	if err == nil && head < c.Head { // it was erased
		err = &OutOfSyncError{Reason: CursorAhead, Client: c.Head, Server: head}
	}
	if err == nil {
		err = vouch(tx, head, &c.query)
	}
	if err != nil {
		return err
	}
	n := stretch
	if c.query.Limit > 0 && c.query.Page == 0 {
		n = min(n, c.query.Limit+1)
	}
	read := tx.Changes
	if c.query.History {
		read = tx.History
	}
	entries, upTo, err := read(c.upTo, c.Head, n)
	if err != nil {
		return err
	}
	c.upTo = upTo
	for i := range entries {
		c.offer(&entries[i], emit)
	}
	return nil
}

// offer emits e, as the device gets it, if the query asks for it.
func (c *Changes) offer(e *Entry, emit func(*Mutation)) {
	q := &c.query
	if c.resources != nil && !c.resources[e.Resource] || q.Access.hidden[e.Resource] {
		return
	}
	if q.Since == Beginning && !q.History && !e.Live() {
		return
	}
	low, high := int64(0), int64(q.Limit)
	if q.Page > 0 {
		low = (q.Page - 1) * high
		high += low
	}
	switch c.given++; {
	case q.Limit > 0 && c.given > high:
		c.HasMore = true
	case c.given > low:
		kind := q.Access.Kinds[e.Resource]
		if c.out = e.Mutation; !q.History {
			c.out.Type, c.out.Data = changeType(e, q.Since), kind.leaving(e)
		}
		kind.hideID(&c.out)
		emit(&c.out)
		c.NextAfter = e.Timestamp
	}
	c.Total = c.given
}

// change returns what a device with the cursor since is told of a resource
// whose newest mutation is e (rule 13): its complete state, or a tombstone.
func change(kinds Kinds, e *Entry, since Timestamp) Mutation {
	m := e.Mutation
	m.Type, m.Data = changeType(e, since), kinds[e.Resource].leaving(e)
	return m
}

// changeType is CREATE for a life that began later than since, else UPDATE, and
// DELETE for a tombstone (rule 13).
func changeType(e *Entry, since Timestamp) Type {
	switch {
	case !e.Live():
		return Delete
	case e.Born > since:
		return Create
	}
	return Update
}
