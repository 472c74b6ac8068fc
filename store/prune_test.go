package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// What pruning leaves is read as from the reference, between pushes, further
// pruning and reopening, whatever is dropped.
func testPrune(t *testing.T, o *opener) {
	s := o.open()
	seed := mutlogtest.Seed(t)
	var comparisons []*comparison
	for i, shape := range []struct{ resources, pushes, batch int }{
		{1, 60, 5}, {5, 100, 8}, {60, 120, 20}, {1500, 100, 30}, {300, 80, 100},
	} {
		c := &comparison{t: t, stores: [2]mutlog.Store{mutlogtest.NewStore(), s}, user: mutlog.User(fmt.Sprint("user ", i)), pruned: true}
		c.rnd = rand.New(rand.NewPCG(seed, uint64(i)))
		c.writer = mutlogtest.Writer{Rand: c.rnd, Resources: shape.resources}
		c.history = newHistory(c.rnd, s, c.stores[0], c.user)
		comparisons = append(comparisons, c)
		defer func() {
			if c.dropped == 0 {
				t.Errorf("%s: nothing was dropped", c.user)
			}
		}()
	}
	shapes := [][2]int{{60, 5}, {100, 8}, {120, 20}, {100, 30}, {80, 100}}
	for round := range 3 {
		var wg sync.WaitGroup
		for i, c := range comparisons {
			wg.Go(func() {
				for n := range shapes[i][0] / 3 {
					if err := c.history.both(t.Context(), c.history.push(c.writer.Batch(shapes[i][1]))); err != nil {
						t.Errorf("%s, push %d: %v", c.user, n, err)
						return
					}
					if c.rnd.IntN(8) == 0 {
						c.prune()
					}
					if c.rnd.IntN(8) == 0 && !c.sameReads() {
						return
					}
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			t.Fatalf("in round %d", round)
		}
		s = o.reopen(s)
		for _, c := range comparisons {
			c.stores[1] = s
			ids := c.history.logs[0].NewID
			c.history.logs[0] = mutlog.New(s, mutlog.DefaultLimits)
			c.history.logs[0].Now, c.history.logs[0].NewID = c.history.clock.Now, ids
			c.sameReads()
		}
	}
}

// prune drops, of each resource, some of the mutations up to a point in time that
// are superseded up to it, the oldest first, and of some that end with a
// tombstone all, in one step or several.
func (c *comparison) prune() {
	head := c.history.heads[len(c.history.heads)-1]
	cut := c.history.heads[c.rnd.IntN(len(c.history.heads))]
	chains := map[mutlog.Ref][]mutlog.Entry{}
	var ends []mutlog.Timestamp // of batches, up to cut
	view(c.t, c.stores[0], c.user, func(tx mutlog.Reader) {
		for _, e := range allHistory(c.t, tx, mutlog.Beginning, head, 1<<30) {
			chains[e.Ref()] = append(chains[e.Ref()], e)
		}
		for _, b := range allBatches(c.t, tx, 1<<30) {
			if b.Head() <= cut {
				ends = append(ends, b.Head())
			}
		}
	})
	if len(ends) == 0 {
		return
	}
	bounds := boundsOf(c.t, c.stores[0], c.user)
	bounds.Pruned = max(bounds.Pruned, cut)
	drop := map[mutlog.Timestamp]bool{}
	for _, chain := range chains {
		n, _ := slices.BinarySearchFunc(chain, cut+1, func(e mutlog.Entry, t mutlog.Timestamp) int { return int(e.Timestamp - t) })
		if n == 0 {
			continue
		}
		most := n - 1
		if last := chain[n-1]; n == len(chain) && !last.Live() && last.Timestamp < head {
			most = n
		}
		for _, e := range chain[:c.rnd.IntN(most+1)] {
			drop[e.Timestamp] = true
		}
	}
	var keep []mutlog.Timestamp
	for _, chain := range chains {
		for _, e := range chain {
			if !drop[e.Timestamp] {
				keep = append(keep, e.Timestamp)
			}
		}
	}
	slices.Sort(keep)
	ends = append([]mutlog.Timestamp{mutlog.Beginning}, ends...)
	ends[len(ends)-1] += mutlog.Timestamp(c.rnd.IntN(2)) // not the end of any batch
	bounds.Pruned = max(bounds.Pruned, ends[len(ends)-1])
	if c.rnd.IntN(2) == 0 {
		ends = []mutlog.Timestamp{ends[0], ends[len(ends)/2], ends[len(ends)-1]}
	}
	if c.rnd.IntN(3) == 0 {
		ends = []mutlog.Timestamp{ends[0], ends[len(ends)-1]}
	}
	for i := range ends[1:] {
		for _, store := range c.stores {
			err := store.Update(c.t.Context(), c.user, func(tx mutlog.Tx) error {
				if err := tx.SetBounds(bounds); err != nil {
					return err
				}
				return tx.Prune(ends[i], ends[i+1], keep)
			})
			if err != nil {
				c.t.Errorf("%s: %v", c.user, err)
			}
		}
	}
	c.dropped += len(drop)
}

// A log that was pruned can be copied: bounds first, then its batches as they
// are.
func testCopyPruned(t *testing.T, o *opener) {
	s, reference := o.open(), mutlogtest.NewStore()
	rnd := rand.New(rand.NewPCG(mutlogtest.Seed(t), 1))
	c := &comparison{t: t, rnd: rnd, stores: [2]mutlog.Store{reference, s}, user: "alice", pruned: true}
	c.writer = mutlogtest.Writer{Rand: rnd, Resources: 60}
	c.history = newHistory(rnd, s, reference, c.user)
	for range 60 {
		if err := c.history.both(t.Context(), c.history.push(c.writer.Batch(20))); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		c.prune()
	}
	setBounds(t, s, "copy", boundsOf(t, s, c.user))
	var batches []*mutlog.Batch
	view(t, s, c.user, func(tx mutlog.Reader) { batches = allBatches(t, tx, 50) })
	for _, b := range batches {
		if err := s.Update(t.Context(), "copy", func(tx mutlog.Tx) error { return tx.Append(b) }); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		same(t, "the copy", withReceipts(t, s, c.user), withReceipts(t, s, "copy"))
		s = o.reopen(s)
	}
}

// withReceipts reads a log, with the receipts of what was not pruned.
func withReceipts(t *testing.T, s mutlog.Store, user mutlog.User) content {
	t.Helper()
	c, pruned := read(t, s, user), boundsOf(t, s, user).Pruned
	for key, b := range c.ByKey {
		if b == nil || b.Head() <= pruned {
			delete(c.ByKey, key)
		}
	}
	for base, batches := range c.OnBase {
		c.OnBase[base] = slices.DeleteFunc(batches, func(b *mutlog.Batch) bool { return b.Head() <= pruned })
		if len(c.OnBase[base]) == 0 {
			delete(c.OnBase, base)
		}
	}
	return c
}

// An erased log is empty, has its gap and no name, while others lose nothing,
// and begins anew.
func testErase(t *testing.T, o *opener) {
	s := o.open()
	users := []mutlog.User{"a", "b", "c", "d"}
	writers := map[mutlog.User]*mutlogtest.Writer{}
	for i, user := range users {
		writers[user] = &mutlogtest.Writer{Rand: rand.New(rand.NewPCG(mutlogtest.Seed(t), uint64(i))), Resources: 200}
	}
	fill := func() {
		var wg sync.WaitGroup
		for _, user := range users {
			wg.Go(func() {
				log := mutlog.New(s, mutlog.DefaultLimits)
				for i := range mutlogtest.Size(20, 80) {
					head := must[mutlog.Timestamp](t)(log.Head(t.Context(), user))
					_, err := log.Push(t.Context(), user, mutlog.Push{Base: head, Key: []string{"", fmt.Sprint(head)}[i%2], Mutations: writers[user].Batch(20)})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	}
	for round := range 3 {
		fill()
		for _, kind := range []string{"a", "device", "token"} {
			for _, owner := range users {
				put(t, s, mutlog.RecordKey{Kind: kind, Owner: string(owner), Name: "x"}, []byte("value"))
			}
		}
		before := map[mutlog.User]content{}
		for _, user := range users {
			before[user] = read(t, s, user)
		}
		until := before["b"].Head + mutlog.Timestamp(1000*round)
		n, want := 0, 0
		for _, b := range before["b"].Batches {
			want += len(b.Entries)
		}
		erase := func() {
			t.Helper()
			err := s.Erase(t.Context(), "b", until, func(mutations int) { n = mutations })
			if err != nil {
				t.Fatal(err)
			}
		}
		erase()
		same(t, "mutations", want, n)
		for range 2 {
			same(t, "the erased log", content{Head: mutlog.Beginning, ByKey: map[string]*mutlog.Batch{}, OnBase: map[mutlog.Timestamp][]*mutlog.Batch{}}, read(t, s, "b"))
			same(t, "its bounds", mutlog.Bounds{Pruned: mutlog.Beginning, Horizon: mutlog.Beginning,
				Gaps: []mutlog.Gap{{After: mutlog.Beginning, Until: until}}}, boundsOf(t, s, "b"))
			same(t, "users", map[mutlog.User]int{"a": 1, "c": 1, "d": 1}, usersOf(t, s))
			for _, r := range must[[]mutlog.Record](t)(mutlogtest.All(s.Records(t.Context(), "device", ""))) {
				if r.Owner == "b" {
					t.Errorf("there is still %q", r.RecordKey)
				}
			}
			for _, user := range []mutlog.User{"a", "c", "d"} {
				same(t, "others", before[user], read(t, s, user))
			}
			erase() // again: there is nothing to do
			same(t, "mutations", 0, n)
			s = o.reopen(s)
		}
	}
	head := push(t, s, "b", note(mutlog.Create, "a", `{}`))
	if until := boundsOf(t, s, "b").Gaps[0].Until; head <= until {
		t.Errorf("head %d is not later than the gap up to %d", head, until)
	}
	same(t, "users", 4, len(usersOf(t, s)))
}

// Whatever state a crash leaves while logs are pruned, cleaned and folded beside
// pushes is sound: what was committed last is as whole as a store that was
// closed.
func TestPruneLeavesSoundStates(t *testing.T) {
	s := openBoltTest(t, BoltOptions{FoldBatches: 50, NoSync: true})
	j := &mutlog.Janitor{Store: s, Now: time.Now, Rate: 1 << 20,
		Retention: mutlog.Retention{History: time.Nanosecond, Tombstones: time.Nanosecond, Receipts: time.Nanosecond}}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for u := range 6 {
		wg.Go(func() {
			w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(7, uint64(u))), Resources: 30 * (u + 1)}
			for {
				select {
				case <-stop:
					return
				default:
					push(t, s, mutlog.User(fmt.Sprint("user-", u)), w.Batch(20)...)
					time.Sleep(2 * time.Millisecond)
				}
			}
		})
	}
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				time.Sleep(time.Millisecond)
				if err := j.Round(t.Context()); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for i := range 8 {
		time.Sleep(20 * time.Millisecond)
		path := filepath.Join(t.TempDir(), fmt.Sprint(i, ".db"))
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Copy(t.Context(), f, nil); err != nil {
			t.Fatal(err)
		}
		f.Close()
		c, err := OpenBolt(path, BoltOptions{NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		mutlogtest.CheckSound(t, c)
		again := mutlog.Janitor{Store: c, Now: time.Now, Rate: 1 << 20, Retention: j.Retention}
		if err := again.Round(t.Context()); err != nil {
			t.Error(err)
		}
		closeSound(t, c)
	}
	close(stop)
	wg.Wait()
}
