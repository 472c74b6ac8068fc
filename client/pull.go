package client

import (
	"context"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"tidemark/mutlog"
)

// DefaultPageSize is how many mutations a pull asks for at a time.
const DefaultPageSize = 500

// Query says what a pull wants.
type Query struct {
	// Since is the cursor of the device. mutlog.Beginning asks for the
	// snapshot, which is the whole truth: what the device has from the server
	// and is not in it was deleted. 0 asks for all changes from the beginning,
	// tombstones among them.
	Since mutlog.Timestamp

	// PageSize is how many mutations to ask for at a time, from 1 to 1000; 0
	// means DefaultPageSize. A page is in memory as a whole.
	PageSize int

	// Resources leaves out all but these kinds; empty asks for all. The head is
	// then a cursor for these kinds only.
	Resources []string

	// History asks for the raw log: each mutation as it was accepted.
	History bool
}

// Changes is a pull under way.
type Changes struct {
	ctx    context.Context
	client *Client
	query  Query

	head mutlog.Timestamp
	done bool
}

// Pull returns a pull, which sends its first request when All is ranged over.
func (c *Client) Pull(ctx context.Context, q Query) *Changes {
	if q.PageSize == 0 {
		q.PageSize = DefaultPageSize
	}
	return &Changes{ctx: ctx, client: c, query: q, head: mutlog.Beginning}
}

// Head returns the cursor that the device may adopt once it has put in place
// all that All has yielded. ok is false until All has come to its end without
// an error: what was pulled so far has holes, and no head is right for it.
//
// The log may grow between two pages, so that each page tells another head. A
// change moves its resource behind all pages before, where a later one finds
// it, so that at the end the device has everything up to the head of the last
// page, and that is the one. The snapshot is different, because it has no
// tombstones: what a page has given and is deleted before the next, no page
// takes back. It is complete as of its first page only, and has the head of
// that; a pull of it gives what happened meanwhile.
func (c *Changes) Head() (head mutlog.Timestamp, ok bool) { return c.head, c.done }

// All yields the mutations in the order of their timestamps, which is strictly
// increasing. After an error it ends; what it has yielded is right, but is not
// all. Ranging over it again starts anew. It comes to its end when a page has
// caught up with the log, so pages should be larger than what others push
// meanwhile.
func (c *Changes) All() iter.Seq2[mutlog.Mutation, error] {
	return func(yield func(mutlog.Mutation, error) bool) {
		c.head, c.done = mutlog.Beginning, false
		after := mutlog.Beginning
		for first := true; ; first = false {
			p, err := c.page(after, first)
			if err != nil {
				yield(mutlog.Mutation{}, fmt.Errorf("pull: %w", err))
				return
			}
			for _, m := range p.Mutations {
				if !yield(m, nil) {
					return
				}
			}
			if !*p.HasMore {
				c.done = true
				return
			}
			after = p.NextAfter
		}
	}
}

// page is one page of a pull, as it stands on the wire.
type page struct {
	Head      *mutlog.Timestamp `json:"lastMutationAt"`
	Mutations []mutlog.Mutation `json:"mutations"`
	HasMore   *bool             `json:"hasMore"`
	NextAfter mutlog.Timestamp  `json:"nextAfter"`
}

// page gets the page behind after, and takes note of its head.
func (c *Changes) page(after mutlog.Timestamp, first bool) (*page, error) {
	p := &page{NextAfter: mutlog.Beginning}
	if _, err := c.client.exchange(c.ctx, http.MethodGet, c.values(after, first), nil, nil, p); err != nil {
		return nil, err
	}
	head, err := headOf(p.Head)
	if err != nil {
		return nil, err
	}
	if err := p.check(max(after, c.query.Since, 0), head); err != nil {
		return nil, err
	}
	if head < max(c.head, after) {
		return nil, malformed("the head of the log has gone back between two pages")
	}
	snapshot := c.query.Since == mutlog.Beginning && !c.query.History
	if first || !snapshot {
		c.head = head
	}
	return p, nil
}

// values returns the parameters that ask for the page behind after.
func (c *Changes) values(after mutlog.Timestamp, first bool) url.Values {
	v := url.Values{"mutationsSince": {c.query.Since.String()}, "limit": {strconv.Itoa(c.query.PageSize)}}
	if !first {
		v.Set("after", after.String())
	}
	if len(c.query.Resources) > 0 {
		v.Set("resources", strings.Join(c.query.Resources, ","))
	}
	if c.query.History {
		v.Set("history", "true")
	}
	return v
}

// check finds what would let a page be taken for more than it is: without
// hasMore a pull would end early, and out of its order a page could repeat or
// skip.
func (p *page) check(after, head mutlog.Timestamp) error {
	if p.Mutations == nil || p.HasMore == nil {
		return malformed("it is no page of a pull")
	}
	for _, m := range p.Mutations {
		if m.Timestamp <= after || m.Timestamp > head {
			return malformed(fmt.Sprintf("a mutation of %d follows %d, and the head is %d", m.Timestamp, after, head))
		}
		after = m.Timestamp
	}
	if *p.HasMore && (len(p.Mutations) == 0 || p.NextAfter != after) {
		return malformed("there is more, and it does not say behind what")
	}
	return nil
}
