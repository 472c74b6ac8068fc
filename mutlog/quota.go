package mutlog

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// This file is rule 24. What is live after a batch stands in the batch itself,
// so that to count costs a push one look at the batch before it: in Batch.Live,
// the kinds with a bound of their own apart, all others together under "". Only
// where nobody counted, or not that kind, is the log read once.

// errUncounted: the newest batch does not tell what a push must know.
var errUncounted = errors.New("what is live was not counted")

// census is what is live in a log as of a head, by kind.
type census struct {
	head Timestamp
	live map[string]Count
}

// count takes a census, in steps.
func (l *Log) count(ctx context.Context, user User) (*census, error) {
	head, err := l.Head(ctx, user)
	if err != nil {
		return nil, err
	}
	c := &census{head, map[string]Count{}}
	for upTo := Beginning; upTo < head; {
		err := l.store.View(ctx, user, func(tx Reader) (err error) {
			var entries []Entry
			entries, upTo, err = tx.Changes(upTo, head, stretch)
			for i := range entries {
				c.live[entries[i].Resource] = c.live[entries[i].Resource].plus(entries[i].weight())
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c Count) plus(d Count) Count  { return Count{c.Resources + d.Resources, c.Bytes + d.Bytes} }
func (c Count) minus(d Count) Count { return Count{c.Resources - d.Resources, c.Bytes - d.Bytes} }

// weight is what the resource of e counts after it; e may be nil.
func (e *Entry) weight() Count {
	if e == nil || !e.Live() {
		return Count{}
	}
	return Count{1, int64(len(e.State))}
}

// ledger counts what is live while a batch is applied. A nil one counts nothing.
type ledger struct {
	bounded []string         // kinds with a bound of their own, sorted
	before  map[string]Count // what is live before the batch, as in Batch.Live
	steps   []step           // what each mutation adds to it
}

type step struct {
	kind string // "" if it has no bound of its own
	Count
}

// ledger opens the ledger of a push on head, if anything is bounded. It fails
// with errUncounted where a census is needed that is not counted.
func (l *Log) ledger(tx Reader, head Timestamp, p *Push, counted *census) (*ledger, error) {
	g := &ledger{bounded: p.Access.Kinds.bounded()}
	if l.limits.Quota == (Count{}) && len(g.bounded) == 0 {
		return nil, nil
	}
	if counted != nil && counted.head == head {
		g.open(counted.live)
		return g, nil
	}
	live := map[string]Count{}
	if head != Beginning {
		newest, err := tx.Batches(head-1, 1)
		if err != nil {
			return nil, err
		}
		if len(newest) == 0 || !tells(newest[0].Live, g.bounded) {
			return nil, errUncounted
		}
		live = newest[0].Live
	}
	g.open(live)
	return g, nil
}

// tells tells whether live counts each of kinds apart.
func tells(live map[string]Count, kinds []string) bool {
	for _, kind := range kinds {
		if _, counted := live[kind]; !counted {
			return false
		}
	}
	return live != nil
}

// bounded returns the kinds whose number is bounded, sorted.
func (k Kinds) bounded() []string {
	var names []string
	for name, kind := range k {
		if kind.Resources > 0 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// open begins with what is live, of which it keeps apart what is bounded.
func (g *ledger) open(live map[string]Count) {
	g.before = map[string]Count{"": {}}
	for _, kind := range g.bounded {
		g.before[kind] = Count{}
	}
	for kind, n := range live {
		kind = g.apart(kind)
		g.before[kind] = g.before[kind].plus(n)
	}
}

func (g *ledger) apart(kind string) string {
	if _, found := slices.BinarySearch(g.bounded, kind); found {
		return kind
	}
	return ""
}

// enter notes the next mutation of the batch, whose resource had the newest
// mutation before, or nil.
func (g *ledger) enter(e, before *Entry) {
	if g != nil {
		g.steps = append(g.steps, step{g.apart(e.Resource), e.weight().minus(before.weight())})
	}
}

// after returns what is live after the batch.
func (g *ledger) after() map[string]Count {
	if g == nil {
		return nil
	}
	live := maps.Clone(g.before)
	for _, s := range g.steps {
		live[s.kind] = live[s.kind].plus(s.Count)
	}
	return live
}

// judge finds the mutations that are over a bound.
func (g *ledger) judge(quota Count, kinds Kinds, faults *faults) {
	if g == nil {
		return
	}
	g.bound(quota.Bytes, "quotaBytes", "bytes", faults, func(_ string, n Count) int64 { return n.Bytes })
	g.bound(quota.Resources, "quotaResources", "resources", faults, func(_ string, n Count) int64 { return n.Resources })
	for _, kind := range g.bounded {
		g.bound(kinds[kind].Resources, "maxResources", "of "+kind, faults, func(of string, n Count) int64 {
			if of != kind {
				return 0
			}
			return n.Resources
		})
	}
}

// bound finds the mutations that make more live than most, and more than was
// before. The batch is judged as a whole: what it frees counts first.
func (g *ledger) bound(most int64, member, what string, faults *faults, count func(kind string, n Count) int64) {
	if most == 0 {
		return
	}
	live := int64(0)
	for kind, n := range g.before {
		live += count(kind, n)
	}
	allowed := max(most, live)
	for _, s := range g.steps {
		live += min(0, count(s.kind, s.Count))
	}
	for i, s := range g.steps {
		switch grown := max(0, count(s.kind, s.Count)); {
		case live+grown > allowed:
			faults.at(i, member, "Quota exceeded", fmt.Sprintf("at most %d %s", most, what))
		default:
			live += grown
		}
	}
}
