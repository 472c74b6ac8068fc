package history

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// device is a client of one user that pushes and pulls, and keeps a copy of the
// log as a client does.
type device struct {
	run    *run
	number int
	user   int
	client string // x-client-id
	pages  bool   // pulls in keyset pages; the others never page
	merges bool   // pushes with merge=true and takes the changes from the answer
	calm   bool   // no request is given up any more
	rand   *rand.Rand
	wire   *wire

	keys    int // used so far
	cursor  int64
	rows    map[ref]string
	heads   []int64      // that it was told
	acked   []*pushInput // answered with 200
	pending []*pushInput // given up while the outcome was unknown
}

// work is what a device does until its steps are used up.
func (d *device) work(steps int) {
	defer d.wire.close()
	for range steps {
		switch n := d.rand.IntN(100); {
		case n < 38:
			d.deliver(d.newPush())
		case n < 50:
			d.sync()
		case n < 60:
			d.repeat()
		case n < 68:
			d.askHead()
		case n < 84:
			d.look()
		case n < 88:
			d.pushInvalid()
		case n < 91:
			d.reuseKey()
		case n < 95:
			d.pushTwice()
		case n < 98:
			d.pushElsewhere()
		case n < 99 && len(d.pending) > 0:
			d.deliver(d.pending[0])
			d.pending = d.pending[1:]
		default: // as if it were installed anew
			d.cursor, d.rows = beginning, map[ref]string{}
		}
	}
}

// newPush returns a push of new mutations on what the device holds.
func (d *device) newPush() *pushInput {
	p := &pushInput{content: d.newContent(), base: d.cursor, client: d.client, merge: d.merges, minimal: d.rand.IntN(20) == 0}
	if d.rand.IntN(2) == 0 {
		// Every user has the same keys, which must not matter.
		d.keys++
		p.key = fmt.Sprintf("key %d of device %d", d.keys, d.number/len(d.run.users))
	}
	if d.rand.IntN(50) == 0 {
		p.content.mutations, p.merge = nil, false
	}
	return p
}

// newContent makes random mutations. Each content has a marker that no other
// has, by which it is found in the log.
func (d *device) newContent() *content {
	c := &content{user: d.user, number: int(d.run.contents.Add(1))}
	n := 1 + d.rand.IntN(1+d.rand.IntN(6))
	if d.run.wide && d.rand.IntN(4) == 0 {
		n = 20 + d.rand.IntN(60)
	}
	marked := false
	for i := range n {
		m := mutation{kind: "UPDATE", resource: [...]string{"NOTE", "BOOKMARK", "TAG_2"}[d.rand.IntN(3)]}
		m.id = fmt.Sprintf("nr %d/é", d.rand.IntN(d.run.resources))
		mark := fmt.Sprintf(`"op":"%d.%d.%d"`, c.user, c.number, i)
		switch d.rand.IntN(20) {
		case 0, 1, 2, 3:
			m.kind = "DELETE"
		case 4, 5:
			m.kind, m.id = "CREATE", ""
		case 6, 7, 8, 9:
			m.kind = "CREATE"
		}
		switch m.kind {
		case "CREATE":
			m.data = "{" + mark + d.members(false) + "}"
		case "UPDATE":
			m.data = "{" + mark + d.members(true) + "}"
		}
		marked = marked || m.data != ""
		c.mutations = append(c.mutations, m)
	}
	if !marked {
		c.mutations = append(c.mutations, mutation{kind: "DELETE", resource: "NOTE", id: fmt.Sprintf("op:%d.%d.%d", c.user, c.number, n)})
	}
	return c
}

// marker returns the marker of a mutation as it stands in the log: the user and
// the number of its content, and its index; ok is false if it has none.
func (m *mutation) marker() (user, number, index int, ok bool) {
	text := m.data
	if i := strings.Index(text, `"op":"`); i >= 0 {
		text = text[i+len(`"op":"`):]
	} else if text, ok = strings.CutPrefix(m.id, "op:"); !ok {
		return 0, 0, 0, false
	}
	n, _ := fmt.Sscanf(text, "%d.%d.%d", &user, &number, &index)
	return user, number, index, n == 3
}

// members returns the further members of an object; with nulls in a patch.
func (d *device) members(patch bool) string {
	var b strings.Builder
	for _, name := range d.rand.Perm(4)[:d.rand.IntN(4)] {
		fmt.Fprintf(&b, `,"%c":`, 'a'+name)
		switch kind := d.rand.IntN(6); {
		case kind == 0 && patch:
			b.WriteString("null")
		case kind == 1 && patch:
			fmt.Fprintf(&b, `{"x":null,"y":%d}`, d.rand.IntN(9))
		case kind <= 2:
			fmt.Fprintf(&b, `{"x":%d.50,"z":[1,{"n":null}]}`, d.rand.IntN(9))
		case kind == 3:
			fmt.Fprintf(&b, "%d12345678901234567890", 1+d.rand.IntN(9))
		default:
			fmt.Fprintf(&b, `"text \u00e9 %d"`, d.rand.IntN(1000))
		}
	}
	return b.String()
}

// send sends a push once and records it; nil if the answer was lost.
func (d *device) send(p *pushInput) *answer {
	hangUp := !d.calm && d.rand.IntN(100) < d.run.hangUps
	if hangUp {
		d.run.hungUp.Add(1)
	}
	return d.record(&operation{push: p}, func() (*answer, error) { return d.wire.push(p, hangUp) })
}

// ask sends a pull once and records it; nil if the answer was lost.
func (d *device) ask(p *pullInput) *answer {
	a := d.record(&operation{pull: p}, func() (*answer, error) { return d.wire.pull(p) })
	if a != nil && a.status == http.StatusConflict && max(p.since, p.after) <= d.lastHead() {
		d.run.violate("I9", d.user, "a head that the server has told is refused: %d", max(p.since, p.after))
	}
	return a
}

func (d *device) record(op *operation, do func() (*answer, error)) *answer {
	if d.run.aborted.Load() {
		return nil
	}
	op.user, op.device = d.user, d.number
	op.call = d.run.now()
	a, err := do()
	op.end = d.run.now()
	switch {
	case err == errLost:
		defer d.run.waitUntilUp(d)
	case err == errHung:
		d.run.abort("no answer after %v", answerTimeout)
	case err != nil:
		d.run.violate("wire", d.user, "%v", err)
	case a.status >= 500:
		d.run.violate("5xx", d.user, "%s", describe(&operation{op.user, op.device, op.push, op.pull, a, op.call, op.end}))
		a = nil
	default:
		op.answer = a
		if a.status != http.StatusConflict && a.status < 400 {
			d.heads = append(d.heads, a.head)
		}
	}
	d.run.add(op)
	return op.answer
}

// lastHead returns the newest head that the device was told.
func (d *device) lastHead() int64 {
	if len(d.heads) == 0 {
		return beginning
	}
	return slices.Max(d.heads)
}

// deliver pushes until the outcome is known or patience ends: it sends again
// what was lost, and pulls and pushes again what was refused.
func (d *device) deliver(p *pushInput) {
	lost := false
	for range 5 {
		a := d.send(p)
		switch {
		case a == nil:
			lost = true
			if !d.calm && d.rand.IntN(8) == 0 {
				d.pending = append(d.pending, p)
				return
			}
			d.run.retries.Add(1)
			if d.rand.IntN(4) == 0 {
				d.sync()
				if p.key != "" {
					p = p.on(d.cursor)
				}
			}
		case a.status == http.StatusOK:
			d.adopt(p, a)
			return
		case a.status != http.StatusConflict:
			return
		case lost && p.key == "":
			return // the same push was refused, so it was never applied
		default:
			if d.sync(); d.rand.IntN(3) == 0 {
				return
			}
			p = p.on(d.cursor)
		}
	}
	d.pending = append(d.pending, p)
}

// on returns the same push on another cursor.
func (p *pushInput) on(base int64) *pushInput {
	moved := *p
	moved.base = base
	return &moved
}

// adopt takes the answer to a push.
func (d *device) adopt(p *pushInput, a *answer) {
	if len(p.content.mutations) > 0 {
		d.acked = append(d.acked, p)
	}
	switch {
	case a.replayed && p.key != "", p.minimal:
		d.sync() // it may have been applied on another cursor, or the data is not told
	case p.base == d.cursor:
		if p.base == beginning && a.changes != nil {
			d.rows = map[ref]string{}
		}
		d.put(a.changes)
		d.put(a.mutations)
		d.cursor = a.head
	}
}

// put puts what the server told in place. The answer to a push tells a DELETE
// without data, and everything else with the state after it.
func (d *device) put(mutations []mutation) {
	for _, m := range mutations {
		if m.kind == "DELETE" {
			delete(d.rows, m.ref())
		} else {
			d.rows[m.ref()] = m.data
		}
	}
}

// sync brings the device up to the log.
func (d *device) sync() {
	all, head, ok := d.pullAll(d.cursor)
	if !ok {
		return
	}
	if d.cursor == beginning {
		d.rows = map[ref]string{} // a snapshot is the whole truth
	}
	d.put(all)
	d.cursor = head
}

// pullAll pulls all changes since a cursor, in the way of the device, and
// returns the cursor that it then has.
func (d *device) pullAll(since int64) (all []mutation, head int64, ok bool) {
	p := pullInput{since: since}
	if !d.pages {
		a := d.ask(&p)
		if a == nil || a.status != http.StatusOK {
			return nil, 0, false
		}
		return a.mutations, a.head, true
	}
	head = beginning
	for {
		p.limit = 1 + d.rand.IntN(20)
		page := p
		a := d.ask(&page)
		for tries := 0; a == nil && tries < 3; tries++ {
			a = d.ask(&page)
		}
		if a == nil || a.status != http.StatusOK {
			return nil, 0, false
		}
		all = append(all, a.mutations...)
		// Pages of a snapshot do not tell what is deleted meanwhile, so the
		// head of the first is the one to go on from.
		if head == beginning || since != beginning {
			head = a.head
		}
		if !a.hasMore {
			return all, head, true
		}
		p.after = a.nextAfter
	}
}

// askHead asks for the head alone.
func (d *device) askHead() {
	p := &pullInput{since: d.someCursor(), metadataOnly: true}
	if d.rand.IntN(3) == 0 && d.lastHead() > 0 {
		p.noneMatch = d.lastHead()
	}
	d.ask(p)
}

// look pulls in a way that clients rarely do.
func (d *device) look() {
	p := &pullInput{since: d.someCursor()}
	switch d.rand.IntN(6) {
	case 0:
		p.history = true
	case 1:
		p.history, p.limit = true, 1+d.rand.IntN(9)
		p.after = max(d.someCursor(), 0)
	case 2:
		p.page, p.limit = 1+d.rand.IntN(3), 1+d.rand.IntN(5)
	case 3:
		p.limit, p.after = 1+d.rand.IntN(5), max(d.someCursor(), 0)
		p.resources = []string{"TAG_2"}
	case 4:
		p.resources = []string{"NOTE", "TAG_2"}
	}
	d.ask(p)
}

// someCursor returns a cursor: one that it was told, one inside of a batch, or
// an odd one.
func (d *device) someCursor() int64 {
	switch n := d.rand.IntN(10); {
	case n == 0 || len(d.heads) == 0:
		return beginning
	case n == 1:
		return 0
	case n == 2:
		return d.lastHead() + 1000000
	case n < 5:
		return max(d.heads[d.rand.IntN(len(d.heads))]-int64(d.rand.IntN(3)), 0)
	}
	return d.heads[d.rand.IntN(len(d.heads))]
}

// repeat sends an acknowledged push again, as a device does that was ended
// before it could note the answer.
func (d *device) repeat() {
	if len(d.acked) == 0 {
		return
	}
	again := *d.acked[len(d.acked)-1-d.rand.IntN(min(len(d.acked), 10))]
	switch d.rand.IntN(8) {
	case 0, 1, 2:
		if again.key != "" {
			again.base = d.cursor
		}
	case 3:
		again.minimal = !again.minimal
	case 4:
		again.merge = !again.merge
	case 5:
		if again.merge = false; again.key == "" {
			again.client += "'s twin" // which is somebody else
		}
	}
	d.run.retries.Add(1)
	d.send(&again)
}

// pushInvalid pushes what must be refused and would fit otherwise.
func (d *device) pushInvalid() {
	p := d.newPush()
	p.invalid = [...]int{http.StatusBadRequest, http.StatusUnprocessableEntity}[d.rand.IntN(2)]
	d.send(p)
}

// reuseKey pushes something else under the key of an acknowledged push.
func (d *device) reuseKey() {
	for _, p := range slices.Backward(d.acked) {
		if p.key != "" {
			d.send(&pushInput{content: d.newContent(), base: d.cursor, client: d.client, key: p.key, merge: d.merges})
			return
		}
	}
}

// pushTwice sends the same push several times at once, to different servers if
// there are several.
func (d *device) pushTwice() {
	p := d.newPush()
	var all sync.WaitGroup
	for i := range 1 + d.rand.IntN(3) {
		twin := &device{run: d.run, number: d.number, user: d.user, rand: rand.New(rand.NewPCG(d.rand.Uint64(), uint64(i))),
			wire: newWire(d.node(i).proxy.addr(), d.run.users[d.user])}
		d.run.retries.Add(1)
		all.Go(func() {
			defer twin.wire.close()
			twin.send(p)
		})
	}
	d.deliver(p)
	all.Wait()
}

// pushElsewhere pushes on a cursor that is not the device's.
func (d *device) pushElsewhere() {
	p := d.newPush()
	p.base = d.someCursor()
	if a := d.send(p); a == nil {
		d.pending = append(d.pending, p)
	} else if a.status == http.StatusOK && len(p.content.mutations) > 0 {
		d.acked = append(d.acked, p)
	}
}

// resolve finds out what became of the pushes that were given up.
func (d *device) resolve() {
	d.calm = true
	for _, p := range d.pending {
		a := d.send(p)
		if a == nil && !d.run.aborted.Load() {
			d.run.violate("I6", d.user, "no answer although nothing is lost any more: push %d", p.content.number)
		}
		d.run.retries.Add(1)
	}
	d.pending = nil
}

// sameRows tells whether two devices hold the same.
func sameRows(a, b map[ref]string) bool { return maps.Equal(a, b) }
