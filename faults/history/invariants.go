package history

import (
	"slices"
	"time"
)

// undecided is how long the search for an order may take.
const undecided = 2 * time.Minute

// judge holds the record against the invariants and the model.
func (r *run) judge(counts *tally) {
	for user := range r.users {
		end := r.finish(user)
		if end == nil {
			continue
		}
		r.finals[user] = end
		j := &judgement{run: r, user: user, end: end, batches: map[*content]settled{}}
		for _, op := range r.ops {
			if op.user == user {
				j.ops = append(j.ops, op)
			}
		}
		j.judge()
		counts.mutations += len(end.history)
		counts.applied += len(j.batches)
	}
	r.convergence()
	for _, op := range r.ops {
		counts.count(op)
	}
}

func (c *tally) count(op *operation) {
	c.operations++
	switch {
	case op.push == nil:
		c.pulls++
		return
	case op.answer == nil:
		c.unanswered++
	case op.answer.replayed:
		c.replayed++
	case op.answer.status != 200:
		c.refused++
	}
	c.pushes++
}

// judgement is about the log of one user.
type judgement struct {
	run     *run
	user    int
	ops     []*operation
	end     *final
	batches map[*content]settled // what is in the log at the end
	heads   []int64              // after each batch
}

func (j *judgement) violate(rule, format string, args ...any) {
	j.run.violate(rule, j.user, format, args...)
}

func (j *judgement) judge() {
	j.timestamps()
	j.settle()
	j.prefixes()
	j.winners()
	j.realTime()
	j.once()
	j.refusals()
	j.acknowledged()
	j.isolation()
	if err := checkLinear(j.ops, j.batches, undecided); err != nil {
		j.violate("linear", "%v", err)
	}
}

// timestamps is I1.
func (j *judgement) timestamps() {
	last := beginning
	for _, m := range j.end.history {
		if m.at <= last || m.at < 1 || m.at > maxTimestamp {
			j.violate("I1", "%d follows %d", m.at, last)
		}
		last = m.at
	}
	if j.end.head != last {
		j.violate("I1", "the head is %d, the log ends with %d", j.end.head, last)
	}
}

// settle finds the batches in the log: that is I7, and half of I5.
func (j *judgement) settle() {
	contents := map[int]*content{}
	for _, op := range j.ops {
		if op.push != nil {
			contents[op.push.content.number] = op.push.content
		}
	}
	previous := beginning
	for log := j.end.history; len(log) > 0; {
		c := j.contentAt(log, contents)
		if c == nil {
			return // the rest cannot be told apart
		}
		n := len(c.mutations)
		if _, again := j.batches[c]; again {
			j.violate("I5", "push %d is in the log twice, the second time at %d", c.number, log[0].at)
		} else {
			j.batches[c] = j.settled(c, log[:n], previous)
		}
		previous = log[n-1].at
		j.heads = append(j.heads, previous)
		log = log[n:]
	}
}

// contentAt returns the content that log begins with, all of it, or nil.
func (j *judgement) contentAt(log []mutation, contents map[int]*content) *content {
	for i := range log {
		_, number, index, ok := log[i].marker()
		if !ok {
			continue
		}
		c := contents[number]
		if c == nil {
			j.violate("I12", "the log holds what none of its devices pushed: %v", log[i])
			return nil
		}
		if index != i || len(c.mutations) > len(log) || !slices.EqualFunc(c.mutations, log[:len(c.mutations)], sent) {
			j.violate("I7", "push %d is not in the log as a whole: mutation %d of it is at %d, behind %d others",
				number, index, log[i].at, i)
			return nil
		}
		return c
	}
	j.violate("I7", "the log ends with the beginning of a batch: %v", log)
	return nil
}

// sent tells whether the log holds in as it was sent.
func sent(m, in mutation) bool {
	return m.kind == in.kind && m.resource == in.resource && m.data == in.data && (m.id == in.id || m.id == "" && in.id != "")
}

func (j *judgement) settled(c *content, log []mutation, previous int64) settled {
	s := settled{previous: previous, first: log[0].at, n: len(log), assigned: make([]string, len(log))}
	for i, m := range log {
		if c.mutations[i].id == "" {
			s.assigned[i] = m.id
		}
		if m.at != log[0].at+int64(i) {
			j.violate("I7", "push %d is not in one piece: mutation %d is at %d, the first at %d", c.number, i, m.at, log[0].at)
		}
	}
	return s
}

// prefixes is I2: what a pull of the raw log gave is still there.
func (j *judgement) prefixes() {
	for _, op := range j.ops {
		p, a := op.pull, op.answer
		if p == nil || !p.history || a == nil || a.status != 200 {
			continue
		}
		from := max(p.since, p.after)
		to := a.head
		if a.hasMore {
			to = a.nextAfter
		}
		var now []mutation
		for _, m := range j.end.history {
			if m.at > from && m.at <= to {
				now = append(now, m)
			}
		}
		if !slices.Equal(now, a.mutations) {
			j.violate("I2", "the log from %d to %d was\n  %v\nand is\n  %v", from, to, a.mutations, now)
		}
	}
}

// winners is I3, and that no head is inside of a batch (I7).
func (j *judgement) winners() {
	won := map[int64]*content{}
	for _, op := range j.ops {
		if op.answer == nil || op.answer.status >= 400 && op.answer.status != 409 {
			continue
		}
		head := op.answer.head
		if _, inLog := slices.BinarySearch(j.heads, head); !inLog && head != beginning {
			j.violate("I7", "a head that is the end of no batch: %s", describe(op))
		}
		if op.push == nil || op.answer.status != 200 || op.answer.replayed || len(op.push.content.mutations) == 0 {
			continue
		}
		if other := won[head]; other != nil {
			j.violate("I3", "pushes %d and %d both won the head %d", other.number, op.push.content.number, head)
		}
		won[head] = op.push.content
	}
	lost := map[*content]bool{}
	for _, op := range j.ops {
		if op.push != nil && op.answer == nil {
			lost[op.push.content] = true
		}
	}
	for c, s := range j.batches {
		if won[s.head()] == nil && !lost[c] {
			j.violate("I3", "push %d is in the log, and no answer said that it was applied", c.number)
		}
	}
}

// realTime is I4.
func (j *judgement) realTime() {
	byEnd := slices.Clone(j.ops)
	slices.SortFunc(byEnd, func(a, b *operation) int { return int(a.end - b.end) })
	byCall := slices.Clone(j.ops)
	slices.SortFunc(byCall, func(a, b *operation) int { return int(a.call - b.call) })
	acked, i := beginning, 0
	for _, op := range byCall {
		for ; i < len(byEnd) && byEnd[i].end < op.call; i++ {
			if tellsHead(byEnd[i]) || byEnd[i].answer != nil && byEnd[i].answer.replayed {
				acked = max(acked, byEnd[i].answer.head)
			}
		}
		if tellsHead(op) && op.answer.head < acked {
			j.violate("I4", "%d was the head before this began: %s", acked, describe(op))
		}
	}
}

// tellsHead tells whether the answer to op tells the head of its time.
func tellsHead(op *operation) bool {
	a := op.answer
	return a != nil && !a.replayed && (a.status < 400 || a.status == 409)
}

// once is I5: all answers to one batch are the same, to the byte.
func (j *judgement) once() {
	first := map[*content]*operation{}
	for _, op := range j.ops {
		if op.push == nil || op.answer == nil || op.answer.status != 200 || op.push.minimal || len(op.push.content.mutations) == 0 {
			continue
		}
		if other := first[op.push.content]; other == nil {
			first[op.push.content] = op
		} else if other.answer.head != op.answer.head || other.answer.raw != op.answer.raw {
			j.violate("I5", "two answers to one push:\n  %s\n  %s", describe(other), describe(op))
		}
	}
}

// refusals is I8 and the other half of I6: what was only ever refused is not in
// the log, and a refused retry means that the push had never been applied.
func (j *judgement) refusals() {
	open := map[*content]bool{} // applied, or of unknown outcome
	resolved := map[*content]*operation{}
	for _, op := range j.ops {
		if op.push == nil {
			continue
		}
		if op.answer == nil || op.answer.status == 200 {
			open[op.push.content] = true
		}
		if op.answer != nil && (resolved[op.push.content] == nil || resolved[op.push.content].call < op.call) {
			resolved[op.push.content] = op
		}
	}
	for c := range j.batches {
		if !open[c] {
			j.violate("I8", "push %d was refused, and is in the log", c.number)
		}
	}
	for c, op := range resolved {
		s, applied := j.batches[c]
		if applied && op.call > seenBy(j.ops, s.head()) && op.answer.status == 409 && op.push.key != "" {
			j.violate("I6", "it is in the log with its key, and a retry is refused: %s", describe(op))
		}
	}
}

// acknowledged is I9: what was acknowledged, before a kill or not, is there.
func (j *judgement) acknowledged() {
	for _, op := range j.ops {
		if op.push == nil || op.answer == nil || op.answer.status != 200 || len(op.push.content.mutations) == 0 {
			continue
		}
		if s, there := j.batches[op.push.content]; !there {
			j.violate("I9", "it was acknowledged and is not in the log: %s", describe(op))
		} else if s.head() != op.answer.head {
			j.violate("I9", "it is in the log at %d, but was acknowledged: %s", s.head(), describe(op))
		}
	}
}

// isolation is I12.
func (j *judgement) isolation() {
	for _, op := range j.ops {
		if op.answer == nil {
			continue
		}
		for _, m := range slices.Concat(op.answer.mutations, op.answer.changes) {
			if user, _, _, ok := m.marker(); ok && user != j.user {
				j.violate("I12", "an answer holds what belongs to user %d: %s", user, describe(op))
			}
		}
	}
}

// convergence is I11: every device ends with what a fresh client holds.
func (r *run) convergence() {
	for _, d := range r.devices {
		end := map[ref]string{}
		fresh := r.finals[d.user]
		if fresh == nil {
			continue
		}
		for _, m := range fresh.snapshot {
			end[m.ref()] = m.data
		}
		if d.cursor != fresh.head || !sameRows(d.rows, end) {
			r.violate("I11", d.user, "device %d (pages %v, merges %v) ends at %d with\n  %v\na fresh one at %d with\n  %v",
				d.number, d.pages, d.merges, d.cursor, d.rows, fresh.head, end)
		}
	}
}
