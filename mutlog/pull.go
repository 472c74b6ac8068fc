package mutlog

import (
	"context"
	"iter"
	"slices"
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
	// to it are left out. It has no effect where it is not later than Since.
	After Timestamp

	// Limit bounds the number of changes; 0 asks for all.
	Limit int

	// Page asks for the Page-th page of Limit changes, from 1; 0 for none.
	Page int64

	// Resources leaves out all but these kinds; empty asks for all.
	Resources []string

	// History asks for the raw log: each mutation as it was accepted.
	History bool
}

// Changes is a pull under way. What it yields is the state of the log as of
// Head, however long it takes and whatever is pushed meanwhile.
type Changes struct {
	// Head is the head of the log at the start of the pull.
	Head Timestamp

	// The following hold once All has run to its end. HasMore tells that there
	// are changes behind a limit or page, NextAfter where a limit continues,
	// Total how many changes there are on all pages of a numbered pull.
	HasMore   bool
	NextAfter Timestamp
	Total     int64

	log   *Log
	user  User
	query Query
	upTo  Timestamp // up to which the log has been read
	ready []Entry   // read, and not yet yielded
	given int64     // how many changes have passed the filter
}

// Pull starts a pull of the log of user (rules 13 to 15). It refuses with
// *OutOfSyncError.
func (l *Log) Pull(ctx context.Context, user User, q Query) (*Changes, error) {
	c := &Changes{log: l, user: user, query: q, upTo: max(q.Since, q.After)}
	err := l.store.View(ctx, user, func(tx Reader) (err error) {
		if c.Head, err = tx.Head(); err != nil {
			return err
		}
		if q.Since > 0 && q.Since > c.Head {
			return &OutOfSyncError{Reason: CursorAhead, Client: q.Since, Server: c.Head}
		}
		return c.read(tx)
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// All yields the changes in stretches, each valid until the next. It may be
// ranged over once. After an error it ends, and what it yielded is not all.
func (c *Changes) All(ctx context.Context) iter.Seq2[[]Mutation, error] {
	return func(yield func([]Mutation, error) bool) {
		var out []Mutation
		for {
			out = c.filter(out[:0])
			if len(out) > 0 && !yield(out, nil) || c.HasMore && c.query.Page == 0 || c.upTo >= c.Head {
				return
			}
			err := ctx.Err()
			if err == nil {
				err = c.log.store.View(ctx, c.user, c.read)
			}
			if err != nil {
				yield(nil, err)
				return
			}
		}
	}
}

// read reads the next stretch of the log.
func (c *Changes) read(tx Reader) (err error) {
	c.ready = c.ready[:0]
	if c.upTo >= c.Head {
		return nil
	}
	n := stretch
	if c.query.Limit > 0 && c.query.Page == 0 {
		n = min(n, c.query.Limit+1)
	}
	if !c.query.History {
		c.ready, c.upTo, err = tx.Changes(c.upTo, c.Head, n)
		return err
	}
	batches, err := tx.Batches(c.upTo, n)
	after := c.upTo
	c.upTo = c.Head
	for _, b := range batches {
		for _, e := range b.Entries {
			if e.Timestamp > after && e.Timestamp <= c.Head {
				c.ready = append(c.ready, e)
				c.upTo = e.Timestamp
			}
		}
	}
	return err
}

// filter appends those of the entries read that the query asks for, as the
// device gets them.
func (c *Changes) filter(out []Mutation) []Mutation {
	q := &c.query
	low, high := int64(0), int64(q.Limit)
	if q.Page > 0 {
		low = (q.Page - 1) * high
		high += low
	}
	for i := range c.ready {
		e := &c.ready[i]
		if len(q.Resources) > 0 && !slices.Contains(q.Resources, e.Resource) {
			continue
		}
		if q.Since == Beginning && !q.History && !e.Live() {
			continue
		}
		switch c.given++; {
		case q.Limit > 0 && c.given > high:
			c.HasMore = true
		case c.given <= low:
		case q.History:
			out = append(out, e.Mutation)
			c.NextAfter = e.Timestamp
		default:
			out = append(out, change(e, q.Since))
			c.NextAfter = e.Timestamp
		}
		if c.HasMore && q.Page == 0 {
			break
		}
	}
	c.Total = c.given
	return out
}

// change returns what a device with the cursor since is told of a resource
// whose newest mutation is e (rule 13): its complete state as a CREATE if its
// life began later than since, else as an UPDATE, or a tombstone.
func change(e *Entry, since Timestamp) Mutation {
	m := Mutation{Type: Update, Resource: e.Resource, ResourceID: e.ResourceID, Data: e.State, Timestamp: e.Timestamp}
	switch {
	case !e.Live():
		m.Type = Delete
	case e.Born > since:
		m.Type = Create
	}
	return m
}
