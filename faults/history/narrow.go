package history

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Most answers tell the head of the state that gave them, and the history that
// was pulled at the end tells the order of heads. So much is known of when each
// batch was applied, and of when each operation took place, before any order is
// looked for: an operation that saw the state after k batches took place after
// the k-th was applied and before the next. narrow cuts the time of each
// operation to what that leaves, which loses no order that explains the answers
// and spares the search most of those that do not. Without it the operations of
// 32 devices that race on one log have too many.

// window is when a batch may have been applied.
type window struct{ from, to int64 }

// timeline is what is known of when the batches of a log were applied. Entry 0
// stands for the empty log.
type timeline struct {
	places  map[int64]int // of heads
	windows []window

	// effective are the pushes that were applied although their answer was lost.
	// Of several with one content it is the first, and stands for all of them:
	// nobody can tell which it was, and each may have been under way for ever.
	effective map[*operation][]*pushInput
}

// newTimeline works out the windows from the operations of one user.
func newTimeline(ops []*operation, ended map[*content]settled) (*timeline, error) {
	heads := []int64{beginning}
	for batch := range maps.Values(ended) {
		heads = append(heads, batch.head())
	}
	slices.Sort(heads)
	t := &timeline{places: map[int64]int{}, windows: make([]window, len(heads)+1), effective: lostAndApplied(ops, ended)}
	for i, head := range heads {
		t.places[head] = i
		t.windows[i] = window{0, math.MaxInt64}
	}
	t.windows[len(heads)] = window{0, math.MaxInt64} // whatever would be applied next
	for op := range t.effective {
		k := t.places[ended[op.push.content].head()]
		t.windows[k].from = op.call
	}
	for _, op := range ops {
		saw, k := t.saw(op)
		if saw == nothing {
			continue
		}
		t.windows[k].to = min(t.windows[k].to, op.end)
		if saw == exactly {
			t.windows[k+1].from = max(t.windows[k+1].from, op.call)
		}
		if saw == applied { // what came before it was applied
			t.windows[k].from = max(t.windows[k].from, op.call)
		}
	}
	for k := 1; k < len(t.windows); k++ {
		t.windows[k].from = max(t.windows[k].from, t.windows[k-1].from)
	}
	for k := len(t.windows) - 2; k >= 0; k-- {
		t.windows[k].to = min(t.windows[k].to, t.windows[k+1].to)
	}
	for k, w := range t.windows {
		if w.from > w.to {
			return nil, fmt.Errorf("batch %d of the log was applied not before %.3f ms and not after %.3f ms", k, float64(w.from)/1e6, float64(w.to)/1e6)
		}
	}
	return t, nil
}

// lostAndApplied returns the pushes that were applied although their answer was
// lost.
func lostAndApplied(ops []*operation, ended map[*content]settled) map[*operation][]*pushInput {
	lost, told := map[*content][]*operation{}, map[*content]bool{}
	for _, op := range ops {
		if op.push == nil {
			continue
		}
		c := op.push.content
		if _, became := ended[c]; !became {
			continue
		}
		if a := op.answer; a == nil {
			lost[c] = append(lost[c], op)
		} else if a.status == 200 && !a.replayed {
			told[c] = true
		}
	}
	effective := map[*operation][]*pushInput{}
	for c, ops := range lost {
		if told[c] {
			continue
		}
		first := slices.MinFunc(ops, func(a, b *operation) int { return cmp.Compare(a.call, b.call) })
		for _, op := range ops {
			effective[first] = append(effective[first], op.push)
		}
	}
	return effective
}

// What an answer tells of the state that gave it.
type sight int

const (
	nothing sight = iota
	atLeast       // the batch k had been applied
	exactly       // the batch k was the last
	applied       // it applied the batch k itself
)

// saw tells what the answer of op says of the state.
func (t *timeline) saw(op *operation) (sight, int) {
	a := op.answer
	if a == nil {
		return nothing, 0
	}
	k, known := t.places[a.head]
	switch {
	case !known:
		return nothing, 0
	case op.pull != nil, a.status == 409:
		return exactly, k
	case a.status != 200:
		return nothing, 0
	case a.replayed:
		return atLeast, k
	case len(op.push.content.mutations) == 0:
		return exactly, k
	}
	return applied, k
}

// narrow returns when op took place, at the earliest and the latest, in units of
// its own. Of operations with the same earliest time, as many have that begin at
// once, those come first that see the earlier state: the search tries them in
// that order.
func (t *timeline) narrow(op *operation, ended map[*content]settled) (call, end int64) {
	call, end = op.call, op.end
	saw, k := t.saw(op)
	if t.effective[op] != nil {
		saw, k, end = applied, t.places[ended[op.push.content].head()], math.MaxInt64
	}
	rank := 0
	if saw != nothing {
		call, rank = max(call, t.windows[k].from), 2*k+1
	}
	switch saw {
	case applied:
		end, rank = min(end, t.windows[k].to), 2*k
	case exactly:
		end = min(end, t.windows[k+1].to)
	}
	unit := int64(2*len(t.windows) + 2)
	if end > math.MaxInt64/unit-1 {
		return call*unit + int64(rank), math.MaxInt64
	}
	return call*unit + int64(rank), end*unit + unit - 1
}
