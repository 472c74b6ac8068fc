package store

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store/postgrestest"
)

// TestEveryWayLeadsToTheSameState pushes 5,000 random batches (by hand fewer) of many users at
// once, while devices pull in random steps and in pages of random size. At the
// end, the history, the devices, what each cursor is told, and the snapshot
// must tell of the same state (rules 6 and 12 to 16).
func TestEveryWayLeadsToTheSameState(t *testing.T) {
	shapes := []struct{ resources, batch, pad int }{
		{1, 3, 0}, {4, 6, 0}, {30, 10, 0}, {150, 10, 0}, {800, 30, 0},
		{90, 10, 10_000}, // pulled in several stretches
	}
	const users = 36
	for _, backend := range []backend{
		{"bolt", tempFile, bolted(BoltOptions{FoldBatches: 500})},
		{"postgres", postgrestest.URL, bolted(BoltOptions{})},
	} {
		t.Run(backend.name, func(t *testing.T) {
			batches := mutlogtest.Size(1000, 5000)
			if backend.name == "postgres" && !*long { // the rules are the same on both
				batches = 1000
			}
			seed := mutlogtest.Seed(t)
			s := backend.opener(t).open()
			var applied atomic.Int64
			var wg sync.WaitGroup
			for u := range users {
				shape := shapes[u%len(shapes)]
				p := &property{t: t, log: mutlog.New(s, mutlog.DefaultLimits), user: mutlog.User(fmt.Sprint("user-", u)), pushed: make(chan struct{})}
				p.rnd = rand.New(rand.NewPCG(seed, uint64(u)))
				p.writer = mutlogtest.Writer{Rand: p.rnd, Resources: shape.resources, Pad: shape.pad}
				wg.Go(func() {
					p.run(seed, batches/users+1, shape.batch)
					applied.Add(int64(p.applied))
				})
			}
			wg.Wait()
			if n := applied.Load(); n < int64(batches) {
				t.Errorf("%d batches were applied, want %d", n, batches)
			}
		})
	}
}

// property is the check of one user.
type property struct {
	t       *testing.T
	log     *mutlog.Log
	user    mutlog.User
	rnd     *rand.Rand
	writer  mutlogtest.Writer
	applied int
	pushed  chan struct{} // closed when all has been pushed
	mu      sync.Mutex
	pulls   []pull
}

// pull is what a pull gave while others pushed.
type pull struct {
	since, after, head mutlog.Timestamp
	got                []mutlog.Mutation
}

func (p *property) run(seed uint64, batches, size int) {
	ctx := context.Background()
	stepper, pager := mutlogtest.NewDevice(), mutlogtest.NewDevice()
	var devices sync.WaitGroup
	devices.Go(func() {
		p.follow(rand.New(rand.NewPCG(seed, 1)), func(*rand.Rand) error { return stepper.Pull(ctx, p.log, p.user) })
	})
	devices.Go(func() {
		p.follow(rand.New(rand.NewPCG(seed, 2)), func(rnd *rand.Rand) error {
			if rnd.IntN(10) == 0 {
				*pager = *mutlogtest.NewDevice() // begins with the snapshot again
			}
			return pager.PullPages(ctx, p.log, p.user, func() int { return 1 + rnd.IntN(1+rnd.IntN(100)) })
		})
	})
	devices.Go(func() { p.follow(rand.New(rand.NewPCG(seed, 3)), p.pullAnything) })
	for p.applied < batches {
		if !p.push(size) {
			break
		}
	}
	close(p.pushed)
	devices.Wait()
	if !p.t.Failed() {
		p.compare(stepper, pager)
	}
}

// follow pulls until all has been pushed, and once more.
func (p *property) follow(rnd *rand.Rand, pull func(*rand.Rand) error) {
	for last := false; !last; {
		select {
		case <-p.pushed:
			last = true
		default:
		}
		time.Sleep(time.Duration(rnd.IntN(30)) * time.Millisecond)
		if err := pull(rnd); err != nil {
			p.t.Errorf("%s: %v", p.user, err)
			return
		}
	}
}

// push pushes once: on the head, or, to be merged, on an older cursor.
func (p *property) push(size int) bool {
	ctx := context.Background()
	head, err := p.log.Head(ctx, p.user)
	if err != nil {
		p.t.Error(err)
		return false
	}
	push := mutlog.Push{Base: head, Mutations: p.writer.Batch(size)}
	if p.rnd.IntN(5) == 0 && head > 0 {
		push.Merge, push.Base = true, head-mutlog.Timestamp(p.rnd.IntN(20))
	}
	answer, err := p.log.Push(ctx, p.user, push)
	if _, refused := err.(*mutlog.OutOfSyncError); refused && push.Merge {
		return true
	}
	if err != nil {
		p.t.Errorf("%s: %v", p.user, err)
		return false
	}
	p.applied++
	if p.rnd.IntN(10) == 0 { // a lost answer
		again, err := p.log.Push(ctx, p.user, push)
		if err != nil || !again.Replayed || !reflect.DeepEqual(again.Mutations, answer.Mutations) {
			p.t.Errorf("%s: the replay of %+v is %+v, %v", p.user, answer, again, err)
			return false
		}
	}
	return true
}

// pullAnything pulls from a random cursor, all or a continuation.
func (p *property) pullAnything(rnd *rand.Rand) error {
	ctx := context.Background()
	head, err := p.log.Head(ctx, p.user)
	if err != nil {
		return err
	}
	past := func() mutlog.Timestamp { return max(mutlog.Beginning, head-mutlog.Timestamp(rnd.IntN(400))) }
	q := mutlog.Query{Since: past(), After: past()}
	if rnd.IntN(4) == 0 {
		q.Since = mutlog.Timestamp(-rnd.IntN(2))
	}
	changes, err := p.log.Pull(ctx, p.user, q)
	if err != nil {
		return err
	}
	got, err := mutlogtest.Collect(ctx, changes)
	if err == nil && rnd.IntN(4) == 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(p.pulls) < 8 {
			p.pulls = append(p.pulls, pull{q.Since, q.After, changes.Head, got})
		}
	}
	return err
}

// compare holds all that was seen against the history.
func (p *property) compare(devices ...*mutlogtest.Device) {
	history, changes := mutlogtest.Pull(p.t, p.log, p.user, mutlog.Query{Since: mutlog.Beginning, History: true})
	final := mutlogtest.Replay(history)

	snapshot := mutlogtest.NewDevice()
	if err := snapshot.Pull(context.Background(), p.log, p.user); err != nil {
		p.t.Fatal(err)
	}
	p.same("the snapshot", final.Live(), decodedRows(snapshot.Rows))
	for i, d := range devices {
		if d.Cursor != changes.Head || !maps.Equal(d.Rows, snapshot.Rows) {
			p.t.Errorf("%s: device %d holds another state, of %d, than the snapshot, of %d", p.user, i, d.Cursor, changes.Head)
		}
	}
	at := func(t mutlog.Timestamp) *mutlogtest.Model {
		i, _ := slices.BinarySearchFunc(history, t+1, func(m mutlog.Mutation, t mutlog.Timestamp) int { return cmp.Compare(m.Timestamp, t) })
		return mutlogtest.Replay(history[:i])
	}
	for _, seen := range p.pulls {
		p.same(fmt.Sprintf("a pull of %d behind %d at %d", seen.since, seen.after, seen.head),
			at(seen.head).Pull(seen.since, seen.after), mutlogtest.Decoded(seen.got))
	}
	for range 3 { // a device that held the state of any cursor is level after one pull
		since := history[p.rnd.IntN(len(history))].Timestamp
		got, _ := mutlogtest.Pull(p.t, p.log, p.user, mutlog.Query{Since: since})
		p.same(fmt.Sprintf("a pull of %d", since), final.Pull(since, mutlog.Beginning), mutlogtest.Decoded(got))
		live := at(since).Live()
		for _, m := range got {
			if m.Type == mutlog.Delete {
				delete(live, m.Ref())
			} else {
				live[m.Ref()] = mutlogtest.Decode(m.Data)
			}
		}
		p.same(fmt.Sprintf("the state after a pull of %d", since), final.Live(), live)
	}
}

func (p *property) same(what string, want, got any) {
	if !reflect.DeepEqual(want, got) {
		p.t.Errorf("%s: %s: -want +got:\n%s", p.user, what, gocmp.Diff(want, got))
	}
}

func decodedRows(rows map[mutlog.Ref]string) map[mutlog.Ref]any {
	decoded := map[mutlog.Ref]any{}
	for ref, data := range rows {
		decoded[ref] = mutlogtest.Decode([]byte(data))
	}
	return decoded
}
