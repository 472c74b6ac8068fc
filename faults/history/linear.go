package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// pushInput is a push as it was sent.
type pushInput struct {
	content     *content
	base        int64
	key, client string
	merge       bool
	minimal     bool // Prefer: return=minimal
	invalid     int  // the status that a push which breaks a rule must get; 0 for a good one
}

// pullInput is a pull as it was sent.
type pullInput struct {
	since, after int64
	limit        int
	page         int
	resources    []string
	history      bool
	metadataOnly bool
	noneMatch    int64 // the head in If-None-Match; 0 for none
}

// answer is what came back.
type answer struct {
	status   int
	code     string // of an error
	reason   string // of a 409
	head     int64  // lastMutationAt, or serverLastMutationAt
	replayed bool

	mutations          []mutation
	raw                string     // the text of mutations
	changes            []mutation // nil if there are none in the answer
	conflicts          []conflict
	limit, page, total int
	hasMore            bool
	nextAfter          int64
}

// operation is one request, with the times of its call and its return in
// nanoseconds since the start of the history.
type operation struct {
	user, device int
	push         *pushInput
	pull         *pullInput
	answer       *answer // nil if it was lost
	call, end    int64
}

// settled is a batch as the history that was pulled at the end has it.
type settled struct {
	previous, first int64
	n               int
	assigned        []string
}

func (s settled) head() int64 { return s.first + int64(s.n) - 1 }

// checkLinear looks for an order of the operations of one user that the model
// allows. ended maps what is in the log at the end.
func checkLinear(ops []*operation, ended map[*content]settled, timeout time.Duration) error {
	times, err := newTimeline(ops, ended)
	if err != nil {
		return err
	}
	model := linearModel(ended, times.effective)
	history := make([]porcupine.Operation, 0, len(ops))
	for _, op := range ops {
		if op.answer == nil && times.effective[op] == nil {
			continue // it never had an effect, nor an answer to explain
		}
		call, end := times.narrow(op, ended)
		history = append(history, porcupine.Operation{ClientId: op.device, Input: op, Output: op.answer, Call: call, Return: end})
	}
	result, info := porcupine.CheckOperationsVerbose(model, history, timeout)
	switch result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("undecided after %v: %d operations\n%s", timeout, len(history), stuck(history, info, model))
	}
	return fmt.Errorf("no order of %d operations explains the answers:\n%s", len(history), stuck(history, info, model))
}

// seenBy returns when the first answer arrived that told of head: whatever was
// applied up to it had been applied by then.
func seenBy(ops []*operation, head int64) int64 {
	seen := int64(math.MaxInt64)
	for _, op := range ops {
		if op.answer != nil && op.answer.head >= head {
			seen = min(seen, op.end)
		}
	}
	return seen
}

// stuck tells where the longest order that was found ends.
func stuck(history []porcupine.Operation, info porcupine.LinearizationInfo, model porcupine.Model) string {
	var longest []int
	for _, partition := range info.PartialLinearizations() {
		for _, order := range partition {
			if len(order) > len(longest) {
				longest = order
			}
		}
	}
	var s any = model.Init()
	for _, i := range longest {
		_, s = model.Step(s, history[i].Input, history[i].Output)
	}
	text := fmt.Sprintf("  after %d of them the state is %s; then none of these fits:\n", len(longest), model.DescribeState(s))
	rest := make([]porcupine.Operation, 0, len(history))
	for i, op := range history {
		if !slices.Contains(longest, i) {
			rest = append(rest, op)
		}
	}
	slices.SortFunc(rest, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	until := int64(math.MaxInt64)
	for _, op := range rest {
		if op.Call > until {
			break
		}
		until = min(until, op.Return)
		text += "  " + describe(op.Input.(*operation)) + "\n"
	}
	return text
}

func linearModel(ended map[*content]settled, effective map[*operation][]*pushInput) porcupine.Model {
	t := &states{made: map[uint64]*state{}}
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{empty} },
		Step: func(s, input, output any) []any {
			op, answer := input.(*operation), output.(*answer)
			from := s.(*state)
			switch {
			case op.pull != nil:
				if allowsPull(from, op.pull, answer) {
					return []any{from}
				}
				return nil
			}
			if answer != nil {
				return known(knownPush(t, from, op.push, answer))
			}
			var next []any
			for _, p := range effective[op] {
				next = append(next, known(lostPush(t, from, p, ended[p.content]))...)
			}
			return next
		},
		Equal: func(a, b any) bool { return a.(*state).head == b.(*state).head && a.(*state).hash == b.(*state).hash },
		Hash:  func(s any) uint64 { return s.(*state).hash },
		DescribeState: func(s any) string {
			return fmt.Sprintf("head %d hash %x", s.(*state).head, s.(*state).hash)
		},
	}
	return model.ToModel()
}

// known returns s as the states that may follow, none if it is nil.
func known(s *state) []any {
	if s == nil {
		return nil
	}
	return []any{s}
}

// lostPush returns the state after a push that became batch, although its answer
// was lost, or nil if s does not allow that.
func lostPush(t *states, s *state, p *pushInput, batch settled) *state {
	if found, reused := s.replay(p); found != nil || reused || batch.previous != s.head || !s.admits(p) {
		return nil
	}
	return t.apply(s, p, batch.first, batch.assigned)
}

// knownPush returns the state after a push that was answered, or nil if s does
// not allow the answer.
func knownPush(t *states, s *state, p *pushInput, a *answer) *state {
	found, reused := s.replay(p)
	switch {
	case p.invalid != 0:
		return s.when(a.status == p.invalid)
	case reused:
		return s.when(a.status == 422 && a.code == "IdempotencyKeyReuseError")
	case found != nil:
		return s.when(a.status == 200 && a.replayed && found.answers(p, a))
	case !s.admits(p):
		return s.when(a.status == 409 && a.reason == s.reason(p.base) && a.head == s.head &&
			slices.Equal(a.conflicts, s.conflicts(p)))
	case a.status != 200 || a.replayed:
		return nil
	case len(p.content.mutations) == 0:
		return s.when(a.head == s.head && len(a.mutations) == 0)
	case len(a.mutations) != len(p.content.mutations):
		return nil
	}
	first := a.mutations[0].at
	if first <= s.head || first < 1 || a.head > maxTimestamp {
		return nil
	}
	assigned := make([]string, len(a.mutations))
	for i, m := range p.content.mutations {
		if m.id == "" {
			assigned[i] = a.mutations[i].id
		}
	}
	next := t.apply(s, p, first, assigned)
	if !next.answers(p, a) {
		return nil
	}
	return next
}

func (s *state) when(allowed bool) *state {
	if allowed {
		return s
	}
	return nil
}

// answers tells whether a is the answer to a push that made s of its parent.
func (s *state) answers(p *pushInput, a *answer) bool {
	want := s.batch.after
	if p.minimal {
		want = slices.Clone(want)
		for i := range want {
			want[i].data = ""
		}
	}
	// Every answer to a batch that was merged tells what was missed.
	tells := p.merge || s.batch.base != s.parent.head
	if a.head != s.head || !slices.Equal(a.mutations, want) || tells != (a.changes != nil) {
		return false
	}
	return !tells || slices.Equal(a.changes, s.parent.changes(s.batch.base))
}

// allowsPull tells whether s allows the answer to a pull.
func allowsPull(s *state, p *pullInput, a *answer) bool {
	if a.head != s.head {
		return false
	}
	if from := max(p.since, p.after); from > 0 && from > s.head && !p.metadataOnly {
		return a.status == 409 && a.reason == "cursor_ahead"
	}
	if p.noneMatch != 0 && p.noneMatch == s.head {
		return a.status == 304
	}
	if a.status != 200 {
		return false
	}
	if p.metadataOnly {
		return a.mutations == nil
	}
	all := s.changes(p.since)
	if p.history {
		all = s.history(p.since)
	}
	all = slices.DeleteFunc(all, func(m mutation) bool {
		return m.at <= p.after || len(p.resources) > 0 && !slices.Contains(p.resources, m.resource)
	})
	from, to, total := 0, len(all), len(all)
	if p.page > 0 {
		from = min((p.page-1)*p.limit, total)
	}
	if p.limit > 0 {
		to = min(from+p.limit, total)
	}
	if a.limit != p.limit || a.page != p.page || a.hasMore != (to < total) || !slices.Equal(a.mutations, all[from:to]) {
		return false
	}
	if p.page > 0 {
		return a.total == total
	}
	return !a.hasMore || a.nextAfter == all[to-1].at
}

// describe prints an operation for somebody who looks for what went wrong.
func describe(op *operation) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[%.3f-%.3f ms] user %d device %d: ", float64(op.call)/1e6, float64(op.end)/1e6, op.user, op.device)
	if p := op.push; p != nil {
		fmt.Fprintf(&b, "push %d on %d", p.content.number, p.base)
		if p.key != "" {
			fmt.Fprintf(&b, " key %s", p.key)
		}
		if p.client != "" {
			fmt.Fprintf(&b, " client %s", p.client)
		}
		if p.merge {
			b.WriteString(" merge")
		}
		for _, m := range p.content.mutations {
			fmt.Fprintf(&b, " %s/%s/%s%s", m.kind, m.resource, m.id, m.data)
		}
	} else {
		fmt.Fprintf(&b, "pull %+v", *op.pull)
	}
	a := op.answer
	if a == nil {
		return b.String() + " -> lost"
	}
	fmt.Fprintf(&b, " -> %d %s %s head %d", a.status, a.code, a.reason, a.head)
	if a.replayed {
		b.WriteString(" replayed")
	}
	for _, m := range a.mutations {
		fmt.Fprintf(&b, " %s/%s/%s%s@%d", m.kind, m.resource, m.id, m.data, m.at)
	}
	if a.changes != nil {
		fmt.Fprintf(&b, " changes %v", a.changes)
	}
	if a.hasMore {
		fmt.Fprintf(&b, " more after %d", a.nextAfter)
	}
	return b.String()
}
