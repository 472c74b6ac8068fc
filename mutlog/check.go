package mutlog

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Check verifies the whole store: its structure first, then every rule for the
// log of every user. It calls report with each fault, which names its place;
// an error says that it could not go on.
func Check(ctx context.Context, store Store, report func(problem string)) error {
	sound := true
	err := store.Check(ctx, func(problem string) {
		sound = false
		report(problem)
	})
	if err != nil || !sound {
		return err // rules would only repeat what is wrong below them
	}
	return store.Users(ctx, func(user User) error {
		c := newLogChecker(user, report)
		for {
			more := false
			err := store.View(ctx, user, func(tx Reader) (err error) {
				more, err = c.next(tx)
				return err
			})
			if err != nil {
				return fmt.Errorf("user %q: %w", user, err)
			}
			if !more {
				return nil
			}
		}
	})
}

// CheckUser verifies the rules of one log in one state of it.
func CheckUser(tx Reader, user User, report func(problem string)) error {
	c := newLogChecker(user, report)
	for more := true; more; {
		var err error
		if more, err = c.next(tx); err != nil {
			return err
		}
	}
	return nil
}

// logChecker goes through one log from its beginning. It remembers where the
// newest mutation of each resource is, and so neither trusts what it checks nor
// goes back through the past of a resource for each of its mutations.
type logChecker struct {
	user   User
	report func(string)
	bounds Bounds
	head   Timestamp
	newest map[Ref]Timestamp
	last   *Batch           // that at read
	live   map[string]Count // as the newest batch has it
}

func newLogChecker(user User, report func(string)) *logChecker {
	return &logChecker{user: user, report: report, head: Beginning, newest: map[Ref]Timestamp{}}
}

func (c *logChecker) fault(at Timestamp, format string, args ...any) {
	c.report(fmt.Sprintf("user %q, mutation %d: ", c.user, at) + fmt.Sprintf(format, args...))
}

// next checks a few batches; more tells that there are others.
func (c *logChecker) next(tx Reader) (more bool, err error) {
	batches, err := tx.Batches(c.head, 1000)
	if err == nil {
		c.bounds, err = tx.Bounds()
	}
	if err != nil {
		return false, err
	}
	for _, b := range batches {
		if err := c.batch(tx, b); err != nil {
			return false, err
		}
	}
	if len(batches) > 0 {
		return true, nil
	}
	head, err := tx.Head()
	if err != nil {
		return false, err
	}
	if head > c.head {
		c.fault(head, "it is the head, but the log ends with %d", c.head)
	}
	return false, c.search(tx)
}

// search checks that the newest mutation of every resource is found.
func (c *logChecker) search(tx Reader) error {
	live := map[string]Count{}
	byTime := func(a, b Ref) int { return cmp.Compare(c.newest[a], c.newest[b]) }
	for refs := range slices.Chunk(slices.SortedFunc(maps.Keys(c.newest), byTime), 1000) {
		found, err := tx.Newest(refs, c.head)
		if err != nil {
			return err
		}
		for i, ref := range refs {
			if want := c.newest[ref]; found[i] == nil || found[i].Timestamp != want {
				c.fault(want, "it is the newest of its resource, but is not found as that")
			}
			live[ref.Resource] = live[ref.Resource].plus(found[i].weight())
		}
	}
	c.counts(live)
	return nil
}

// counts checks what the newest batch says of what is live: each kind that it
// names, and all others together (rule 24).
func (c *logChecker) counts(live map[string]Count) {
	want := map[string]Count{}
	for kind, n := range live {
		if _, apart := c.live[kind]; !apart {
			kind = ""
		}
		want[kind] = want[kind].plus(n)
	}
	for kind, got := range c.live {
		if got != want[kind] {
			c.fault(c.head, "its batch says that %+v of %q is live, which is %+v (rule 24)", got, kind, want[kind])
		}
	}
}

// batch checks one batch on top of the state before it.
func (c *logChecker) batch(tx Reader, b *Batch) error {
	if len(b.Entries) == 0 {
		c.fault(c.head, "a batch without mutations follows")
		return nil
	}
	if b.Previous != c.head && (b.Previous < c.head || b.Previous > c.bounds.Pruned) {
		c.fault(b.First(), "its batch follows %d, the head before it is %d", b.Previous, c.head)
	}
	if b.Base > b.Previous {
		c.fault(b.First(), "its batch was pushed on %d, later than the head before it, %d", b.Base, b.Previous)
	}
	before, err := c.before(tx, b)
	if err != nil {
		return err
	}
	for i := range b.Entries {
		c.entry(&b.Entries[i], before[i])
	}
	c.live = b.Live
	return c.receipt(tx, b)
}

// before returns the newest mutation of each entry's resource before it.
func (c *logChecker) before(tx Reader, b *Batch) ([]*Entry, error) {
	before := make([]*Entry, len(b.Entries))
	inBatch := map[Ref]*Entry{}
	for i := range b.Entries {
		ref := b.Entries[i].Ref()
		if before[i] = inBatch[ref]; before[i] == nil {
			var err error
			if before[i], err = c.at(tx, c.newest[ref]); err != nil {
				return nil, err
			}
		}
		inBatch[ref] = &b.Entries[i]
	}
	for ref, e := range inBatch {
		ref = Ref{strings.Clone(ref.Resource), strings.Clone(ref.ResourceID)} // they may be parts of the batch
		c.newest[ref] = e.Timestamp
	}
	return before, nil
}

// at returns the mutation with the timestamp t, which the log holds, unless it
// is 0 or was pruned since it was seen; then nil.
func (c *logChecker) at(tx Reader, t Timestamp) (*Entry, error) {
	if t == 0 {
		return nil, nil
	}
	if c.last == nil || t < c.last.First() || t > c.last.Head() {
		batches, err := tx.Batches(t-1, 1)
		if err != nil {
			return nil, err
		}
		if len(batches) > 0 {
			c.last = batches[0]
		}
	}
	if c.last != nil {
		byTime := func(e Entry, t Timestamp) int { return cmp.Compare(e.Timestamp, t) }
		if i, found := slices.BinarySearchFunc(c.last.Entries, t, byTime); found {
			return &c.last.Entries[i], nil
		}
	}
	if t <= c.bounds.Pruned {
		return nil, nil
	}
	return nil, fmt.Errorf("%w: mutation %d is not found", ErrCorrupt, t)
}

// entry checks one mutation, whose resource had the newest mutation before.
func (c *logChecker) entry(e *Entry, before *Entry) {
	t := e.Timestamp
	if t <= c.head || t < 1 || t > MaxTimestamp {
		c.fault(t, "it follows %d and is not later, or out of range (rule 3)", c.head)
	}
	c.head = t
	for _, gap := range c.bounds.Gaps {
		if gap.After > Beginning && gap.After < t && t <= gap.Until { // one from Beginning is of an erasure, which may be under way
			c.fault(t, "it is in the gap from %d to %d (rule 17)", gap.After, gap.Until)
		}
	}
	if !ValidResource(e.Resource) || !ValidResourceID(e.ResourceID) {
		c.fault(t, "its resource is %q %q (rule 5)", e.Resource, e.ResourceID)
	}
	for _, data := range [][]byte{e.Data, e.State} {
		if data != nil && (!bytes.HasPrefix(data, []byte("{")) || !validJSON(data) || nesting(data) > MaxNesting || hasNUL(data)) {
			c.fault(t, "its data is no valid JSON object (rule 5)")
			return
		}
	}
	switch {
	case e.Type != Create && e.Type != Update && e.Type != Delete:
		c.fault(t, "its type is %q (rule 5)", e.Type)
		return
	case e.Type != Delete && e.Data == nil:
		c.fault(t, "a %s without data (rule 5)", e.Type)
		return
	}
	if before == nil && e.Prev != Beginning && e.Prev <= c.bounds.Pruned {
		return // what it rests on was pruned
	}
	want := *e
	want.follow(before)
	switch {
	case want.Prev != e.Prev:
		c.fault(t, "it says that the mutation of its resource before it is %d, which is %d", e.Prev, want.Prev)
	case want.Born != e.Born:
		c.fault(t, "it says that its resource lives since %d, which is %d (rule 13)", e.Born, want.Born)
	case want.Live() != e.Live() || e.Live() && !equalJSON(want.State, e.State):
		c.fault(t, "the data after it is not what its resource's past makes it (rule 6)")
	}
}

// receipt checks that b is found when its push comes again (rules 10 and 11).
func (c *logChecker) receipt(tx Reader, b *Batch) error {
	if b.Key != "" {
		found, err := tx.BatchByKey(b.Key)
		if err != nil || found != nil && found.First() == b.First() {
			return err
		}
	} else {
		for found, err := range tx.BatchesOn(b.Base) {
			if err != nil || found.First() == b.First() {
				return err
			}
		}
	}
	if b.Head() <= c.bounds.Pruned {
		return nil
	}
	c.fault(b.First(), "its batch would not be recognised if it were pushed again (rules 10 and 11)")
	return nil
}
