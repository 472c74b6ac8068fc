package history

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// violation is something that must not be.
type violation struct {
	rule string // I1 to I16, "linear"; "5xx" and "wire" for an answer, "end" for an end of the server that must not be
	text string
}

// tally counts what histories did.
type tally struct {
	histories, users           int
	killed, kills, restarts    int // killed: histories with kills
	checks                     int
	operations, pulls, pushes  int
	applied, mutations         int // batches in the logs, and what they hold
	retries, replayed, refused int // pushes
	unanswered                 int
	lostAnswers, lostRequests  int // of pushes, by the proxy
	hungUp                     int // pushes whose device did not wait
}

func (c *tally) add(o tally) {
	c.histories += o.histories
	c.users += o.users
	c.killed += o.killed
	c.kills += o.kills
	c.restarts += o.restarts
	c.checks += o.checks
	c.operations += o.operations
	c.pulls += o.pulls
	c.pushes += o.pushes
	c.applied += o.applied
	c.mutations += o.mutations
	c.retries += o.retries
	c.replayed += o.replayed
	c.refused += o.refused
	c.unanswered += o.unanswered
	c.lostAnswers += o.lostAnswers
	c.lostRequests += o.lostRequests
	c.hungUp += o.hungUp
}

// bench runs histories, one after the other, against one store and its servers.
// New histories have new users, so that they can share them.
type bench struct {
	settings
	binary string
	nodes  []*node
	store  string // "" if there is none
	used   int    // histories in store
}

// settings say how histories are made.
type settings struct {
	kind    kind
	servers int // of one store
	devices int // in a history
	users   int // in a history; 0 for some
	steps   int // of a device, at least
}

// oneServer are the settings of histories of one server on a bbolt file.
func oneServer(dir string) settings {
	return settings{kind: files{dir}, servers: 1, devices: 8, steps: 8}
}

// retireNow makes the next history begin with another server and store.
func (b *bench) retireNow() { b.used = historiesPerStore }

// historiesPerStore bounds the size of a store, all of which is checked after
// each history.
const historiesPerStore = 12

func newBench(binary string, how settings) (*bench, error) {
	b := &bench{settings: how, binary: binary}
	for range how.servers {
		p, err := newProxy()
		if err != nil {
			return nil, err
		}
		b.nodes = append(b.nodes, &node{proxy: p})
	}
	return b, nil
}

// fresh makes sure that servers run whose store is not too large.
func (b *bench) fresh() (err error) {
	if b.store != "" && b.used < historiesPerStore {
		return nil
	}
	b.retire()
	b.used = 0
	if b.store, err = b.kind.create(); err != nil {
		return err
	}
	for _, n := range b.nodes {
		if err := n.start(b.binary, b.store); err != nil {
			return err
		}
	}
	return nil
}

// retire ends the servers and removes their store.
func (b *bench) retire() {
	if b.store == "" {
		return
	}
	for _, n := range b.nodes {
		if n.server != nil {
			n.server.kill()
		}
	}
	b.kind.remove(b.store)
	b.store = ""
}

func (b *bench) close() {
	b.retire()
	for _, n := range b.nodes {
		n.proxy.listener.Close()
	}
}

// run is one history.
type run struct {
	bench *bench
	seed  uint64
	users []string
	rand  *rand.Rand
	begin time.Time

	wide      bool // many resources, large batches
	resources int
	hangUps   int // per cent of pushes whose device hangs up once they are sent
	contents  atomic.Int64
	retries   atomic.Int64
	hungUp    atomic.Int64
	devices   []*device
	finals    map[int]*final // by user

	aborted atomic.Bool // there is no sense in going on

	mu         sync.Mutex
	ops        []*operation
	violations []violation
	endAt      []int         // counts of operations at which the server is ended
	end        chan struct{} // to the one who ends it
	up         chan struct{} // closed while the server is up
	kills      int
	restarts   int
}

// run makes and judges the history of one seed. Those of odd seeds end the
// server meanwhile, mostly with a kill. An error says that it could not be done.
func (b *bench) run(seed uint64) ([]violation, tally, error) {
	if err := b.fresh(); err != nil {
		return nil, tally{}, err
	}
	b.used++
	r := &run{bench: b, seed: seed, rand: rand.New(rand.NewPCG(seed, 0)), begin: time.Now(),
		end: make(chan struct{}, 8), up: make(chan struct{}), finals: map[int]*final{}}
	close(r.up)
	users := []int{1, 1, 2, 2, 3, 4}[r.rand.IntN(6)]
	if b.users > 0 {
		users = b.users
	}
	r.resources = 2 + r.rand.IntN(10)
	if r.wide = r.rand.IntN(6) == 0; r.wide {
		users, r.resources = 1, 250
	}
	for i := range users {
		r.users = append(r.users, fmt.Sprintf("history %d user %d", seed, i))
	}
	steps := b.steps + r.rand.IntN(14)
	l := loss{}
	if r.rand.IntN(8) > 0 {
		l = loss{request: 0.01, pushAnswer: 0.02 + 0.15*r.rand.Float64(), pullAnswer: 0.02}
		r.hangUps = r.rand.IntN(8)
	}
	if seed%2 == 1 {
		for range 1 + r.rand.IntN(3) {
			r.endAt = append(r.endAt, b.devices*steps/10+r.rand.IntN(b.devices*steps))
		}
	}
	lostAnswers, lostRequests := b.lost()
	b.lose(seed, l)
	r.work(steps)
	b.lose(seed, loss{})
	if !r.aborted.Load() && !b.quiet() {
		r.abort("connections to the server do not end")
	}
	counts := tally{histories: 1, users: len(r.users), kills: r.kills, restarts: r.restarts, retries: int(r.retries.Load()),
		hungUp: int(r.hungUp.Load())}
	counts.lostAnswers, counts.lostRequests = b.lost()
	counts.lostAnswers -= lostAnswers
	counts.lostRequests -= lostRequests
	if r.kills > 0 {
		counts.killed = 1
	}
	if !r.aborted.Load() {
		r.settle()
		counts.checks++
		r.judge(&counts)
	}
	if len(r.violations) > 0 {
		b.retireNow()
	}
	return r.violations, counts, nil
}

// abort notes that the server has come to an end that it must not have.
func (r *run) abort(format string, args ...any) {
	if !r.aborted.Swap(true) {
		r.violate("end", -1, format, args...)
	}
}

// work lets the devices work, and ends the server meanwhile.
func (r *run) work(steps int) {
	for i := range r.bench.devices {
		d := &device{run: r, number: i, user: i % len(r.users), rand: rand.New(rand.NewPCG(r.seed, uint64(100+i))),
			cursor: beginning, rows: map[ref]string{}, pages: i%3 == 1, merges: i%4 >= 2}
		if i%2 == 0 {
			d.client = fmt.Sprintf("app %d", i%4)
		}
		d.wire = newWire(d.node(0).proxy.addr(), r.users[d.user])
		r.devices = append(r.devices, d)
	}
	done := make(chan struct{})
	go func() { defer close(done); r.endServers() }()
	var all sync.WaitGroup
	for _, d := range r.devices {
		all.Go(func() { d.work(steps) })
	}
	all.Wait()
	r.mu.Lock()
	r.endAt = nil
	r.mu.Unlock()
	close(r.end)
	<-done
}

// endServers ends and restarts the server whenever it is told to: with a kill,
// or now and then in good order, which leaves another file behind.
func (r *run) endServers() {
	for range r.end {
		time.Sleep(time.Duration(r.rand.IntN(3000)) * time.Microsecond)
		r.mu.Lock()
		r.up = make(chan struct{})
		r.mu.Unlock()
		n := r.bench.nodes[r.rand.IntN(len(r.bench.nodes))]
		if r.kills == 0 || r.rand.IntN(2) == 0 {
			r.kills++
			n.server.kill()
		} else {
			r.restarts++
			if code := n.server.stop(); code != 0 {
				r.abort("it was asked to stop and ended with %d: %s", code, n.server.log.String())
			}
		}
		r.serverLogs()
		if err := n.start(r.bench.binary, r.bench.store); err != nil {
			r.abort("it does not start again: %v", err)
		}
		r.mu.Lock()
		close(r.up)
		r.mu.Unlock()
	}
}

// waitUntilUp lets a device whose request was lost wait for the server, now and
// then not.
func (r *run) waitUntilUp(d *device) {
	r.mu.Lock()
	up := r.up
	r.mu.Unlock()
	if d.rand.IntN(8) > 0 {
		<-up
	}
}

func (r *run) now() int64 { return time.Since(r.begin).Nanoseconds() }

// add notes an operation.
func (r *run) add(op *operation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ops = append(r.ops, op)
	for _, at := range r.endAt {
		if at == len(r.ops) {
			r.end <- struct{}{}
		}
	}
}

func (r *run) violate(rule string, user int, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = append(r.violations, violation{rule, fmt.Sprintf("user %d: ", user) + fmt.Sprintf(format, args...)})
}

// serverLogs makes a panic of a server a violation, and a data race, if it is
// built to find them.
func (r *run) serverLogs() {
	for _, n := range r.bench.nodes {
		if log := n.server.log.String(); strings.Contains(log, "panic") || strings.Contains(log, "DATA RACE") {
			r.violate("5xx", -1, "the server panicked or raced: %s", log)
		}
	}
}

// settle ends a history: the open questions are asked, refusals are tried on an
// idle server, and every device gets level.
func (r *run) settle() {
	for _, d := range r.devices {
		d.resolve()
	}
	r.refuse()
	for _, d := range r.devices {
		if d.sync(); d.pages {
			d.sync() // what was deleted between the pages of a snapshot
		}
	}
	for _, d := range r.devices {
		d.wire.close()
	}
	r.bench.quiet()
	if r.aborted.Load() {
		return
	}
	if err := r.bench.kind.check(r.bench.binary, r.bench.store); err != nil {
		r.violate("I16", -1, "tidemark check: %v", err)
	}
	r.serverLogs()
}

// refuse tries refusals of every kind on an idle server: not a byte of the
// store may change.
func (r *run) refuse() {
	before, err := r.bench.kind.content(r.bench.store)
	if err != nil {
		r.violate("I8", -1, "%v", err)
		return
	}
	for _, d := range r.devices[:len(r.users)] {
		d.sync()
		for range 2 {
			p := d.newPush()
			p.base, p.merge = d.lastHead()+5, false
			d.send(p)
			d.pushInvalid()
			d.reuseKey()
			d.repeat()
		}
	}
	if same, err := r.bench.sameContent(before); err != nil || !same {
		r.violate("I8", -1, "refusals and replays changed the content of the store (%v)", err)
	}
}

// final is what fresh clients pulled from the server at the end.
type final struct {
	head     int64
	history  []mutation
	snapshot []mutation
}

// finish pulls everything of a user with clients that hold nothing, in one pull
// and in pages, directly from the server.
func (r *run) finish(user int) *final {
	d := &device{run: r, number: r.bench.devices, user: user, calm: true, rand: rand.New(rand.NewPCG(r.seed, uint64(200+user))),
		cursor: beginning, wire: newWire(r.bench.nodes[0].server.addr, r.users[user])}
	defer d.wire.close()
	history := d.ask(&pullInput{since: beginning, history: true})
	snapshot := d.ask(&pullInput{since: beginning})
	if history == nil || snapshot == nil || history.status != http.StatusOK || snapshot.status != http.StatusOK {
		r.violate("I9", user, "the final pulls were not answered: %+v %+v", history, snapshot)
		return nil
	}
	for range 3 {
		d.comparePages(pullInput{since: d.someCursorOf(history)})
	}
	d.comparePages(pullInput{since: d.someCursorOf(history), history: true})
	d.comparePages(pullInput{since: beginning})
	return &final{history.head, history.mutations, snapshot.mutations}
}

// someCursorOf returns the place of a mutation of a log, or the place before it.
func (d *device) someCursorOf(history *answer) int64 {
	if len(history.mutations) == 0 {
		return beginning
	}
	return history.mutations[d.rand.IntN(len(history.mutations))].at - int64(d.rand.IntN(2))
}

// comparePages compares an answer in one piece with keyset and numbered pages.
func (d *device) comparePages(p pullInput) {
	unpaged := p
	whole := d.ask(&unpaged)
	if whole == nil {
		return
	}
	p.limit = 3 + d.rand.IntN(17)
	var keyset, numbered []mutation
	for q := p; ; {
		page := q
		a := d.ask(&page)
		if a == nil {
			return
		}
		keyset = append(keyset, a.mutations...)
		if !a.hasMore || len(keyset) > len(whole.mutations) {
			break
		}
		q.after = a.nextAfter
	}
	d.compare(p, "keyset", whole, keyset)
	for p.page = 1; !p.history; p.page++ {
		page := p
		a := d.ask(&page)
		if a == nil {
			return
		}
		numbered = append(numbered, a.mutations...)
		if !a.hasMore || len(numbered) > len(whole.mutations) {
			d.compare(p, "numbered", whole, numbered)
			break
		}
	}
}

func (d *device) compare(p pullInput, how string, whole *answer, pages []mutation) {
	if fmt.Sprint(whole.mutations) != fmt.Sprint(pages) {
		d.run.violate("I14", d.user, "%s pages of %+v give\n  %v\nand one pull gives\n  %v", how, p, pages, whole.mutations)
	}
}
