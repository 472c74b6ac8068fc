package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// noPause prunes without a break.
func noPause(int) error { return nil }

// TestRetention is rule 19: pruning, in many rounds of a clock that runs fast,
// drops what it may, moves no head, and leaves every pull as it was: of all
// cursors that have not expired, in pages or not, and the snapshot. Who expires
// is told.
func TestRetention(t *testing.T) {
	for _, backend := range backends {
		if backend.name == "bolt" || backend.name == "bolt folding in steps" {
			continue // rules differ no more than folding at once shows
		}
		t.Run(backend.name, func(t *testing.T) {
			t.Parallel()
			testRetention(t, backend.opener(t))
		})
	}
}

func testRetention(t *testing.T, o *opener) {
	s := o.open()
	seed := mutlogtest.Seed(t)
	var wg sync.WaitGroup
	for i, shape := range []struct{ resources, batch int }{{1, 4}, {6, 6}, {100, 20}, {400, 30}} {
		wg.Go(func() {
			r := &retained{t: t, s: s, user: mutlog.User(fmt.Sprint("user ", i)), batch: shape.batch}
			r.rnd = rand.New(rand.NewPCG(seed, uint64(i)))
			r.writer = mutlogtest.Writer{Rand: r.rnd, Resources: shape.resources}
			r.log = mutlog.New(s, mutlog.DefaultLimits)
			r.log.Now = r.clock.Now
			r.run()
		})
	}
	wg.Wait()
	o.reopen(s)
}

// retained is one log with retention, whose clock is set by hand.
type retained struct {
	t       *testing.T
	s       mutlog.Store
	log     *mutlog.Log
	user    mutlog.User
	rnd     *rand.Rand
	writer  mutlogtest.Writer
	batch   int
	clock   mutlogtest.Clock
	now     int64
	heads   []mutlog.Timestamp
	dropped int
	expired int
}

func (r *retained) run() {
	r.now, r.heads = 1_000_000, []mutlog.Timestamp{mutlog.Beginning}
	for range 6 {
		for range 25 {
			r.now += r.rnd.Int64N(1000)
			r.clock.Set(r.now)
			p := mutlog.Push{Base: r.heads[len(r.heads)-1], Mutations: r.writer.Batch(r.batch)}
			answer, err := r.log.Push(r.t.Context(), r.user, p)
			if err != nil {
				r.t.Error(err)
				return
			}
			r.heads = append(r.heads, answer.Head)
		}
		r.round()
		if r.t.Failed() {
			return
		}
	}
	if r.dropped == 0 || r.expired == 0 && r.writer.Resources >= 400 { // of fewer, all that are deleted may live again before they expire
		r.t.Errorf("%s: %d mutations were dropped, %d cursors expired", r.user, r.dropped, r.expired)
	}
}

// round prunes, and compares what is told before and after.
func (r *retained) round() {
	retention := mutlog.Retention{History: 10 * time.Second, Tombstones: 25 * time.Second, Receipts: 5 * time.Second}
	cut := mutlog.Timestamp(r.now - 10_000)
	before := r.pulls()
	history := r.history()
	done, err := retention.Prune(r.t.Context(), r.s, r.user, r.log.Now(), noPause)
	if err != nil {
		r.t.Error(err)
		return
	}
	r.dropped += done.Dropped
	after := r.pulls()
	bounds := boundsOf(r.t, r.s, r.user)
	for q, want := range before {
		if q.since > 0 && q.since < bounds.Horizon {
			if after[q] != "cursor_expired" {
				r.t.Errorf("%s: cursor %d is earlier than the horizon, %d, and is told %.100s", r.user, q.since, bounds.Horizon, after[q])
			}
			r.expired++
			continue
		}
		if after[q] != want {
			r.t.Errorf("%s: a pull of %+v was answered before with\n%s\nand now with\n%s", r.user, q, want, after[q])
		}
	}
	if bounds.Horizon > mutlog.Timestamp(r.now-25_000) {
		r.t.Errorf("%s: the horizon is %d at %d", r.user, bounds.Horizon, r.now)
	}
	for _, m := range history { // the history is complete later than what may be dropped
		if m.Timestamp > cut && !contains(r.history(), m) {
			r.t.Errorf("%s: mutation %d is gone", r.user, m.Timestamp)
		}
		if m.Timestamp > cut {
			break // the rest is compared by the pulls
		}
	}
}

func contains(all []mutlog.Mutation, m mutlog.Mutation) bool {
	for i := range all {
		if all[i].Timestamp == m.Timestamp {
			return fmt.Sprint(all[i]) == fmt.Sprint(m)
		}
	}
	return false
}

func (r *retained) history() []mutlog.Mutation {
	all, _ := mutlogtest.Pull(r.t, r.log, r.user, mutlog.Query{Since: mutlog.Beginning, History: true})
	return all
}

// asked is what is asked for: a cursor, and where to go on.
type asked struct{ since, after mutlog.Timestamp }

// pulls pulls from every cursor that a device can have, and from between them.
func (r *retained) pulls() map[asked]string {
	answers := map[asked]string{}
	for i, head := range r.heads {
		if i%7 > 0 && i < len(r.heads)-4 {
			continue
		}
		for _, q := range []asked{{head, head}, {max(head-1, mutlog.Beginning), head}, {mutlog.Beginning, head}} {
			if q.since != 0 {
				answers[q] = r.pull(q)
			}
		}
	}
	return answers
}

func (r *retained) pull(q asked) string {
	changes, err := r.log.Pull(r.t.Context(), r.user, mutlog.Query{Since: q.since, After: q.after})
	var refusal *mutlog.OutOfSyncError
	if errors.As(err, &refusal) {
		return string(refusal.Reason)
	}
	if err != nil {
		r.t.Error(err)
		return ""
	}
	all, err := mutlogtest.Collect(context.Background(), changes)
	return fmt.Sprint(changes.Head, all, err)
}

// Rule 19: 0 keeps for ever, and a log with little to drop is left alone.
func TestRetentionKeeps(t *testing.T) {
	s := backends[0].opener(t).open()
	for i := range 20 {
		push(t, s, "busy", note(mutlog.Update, "a", fmt.Sprintf(`{"i":%d}`, i)))
		push(t, s, "idle", note(mutlog.Create, fmt.Sprint(i), `{}`))
	}
	push(t, s, "idle", note(mutlog.Update, "1", `{}`))
	later := time.Now().Add(time.Hour)
	for _, test := range []struct {
		user      mutlog.User
		retention mutlog.Retention
		dropped   int
	}{
		{"busy", mutlog.Retention{}, 0},
		{"busy", mutlog.Retention{Receipts: 1, Tombstones: 1}, 0},
		{"busy", mutlog.Retention{History: 1, Tombstones: 1}, 0},
		{"busy", mutlog.Retention{History: 2 * time.Hour, Receipts: 1}, 0},
		{"busy", mutlog.Retention{History: 1, Receipts: 2 * time.Hour}, 0},
		{"idle", mutlog.Retention{History: 1, Receipts: 1}, 0},
		{"busy", mutlog.Retention{History: 1, Receipts: 1}, 19},
		{"nobody", mutlog.Retention{History: 1, Receipts: 1}, 0},
	} {
		before := read(t, s, test.user)
		done, err := test.retention.Prune(t.Context(), s, test.user, later, noPause)
		if err != nil || done.Dropped != test.dropped {
			t.Errorf("%s, %+v: %+v, %v", test.user, test.retention, done, err)
		}
		if test.dropped == 0 {
			same(t, string(test.user), before, read(t, s, test.user))
		}
	}
}

// A janitor prunes all logs, beside pushes and pulls that notice nothing, and
// one round is done once, whoever comes for it.
func TestJanitor(t *testing.T) {
	t.Parallel()
	s := backends[0].opener(t).open()
	var mu sync.Mutex
	var dropped, rounds int
	j := &mutlog.Janitor{Store: s, Retention: mutlog.Retention{History: time.Nanosecond, Tombstones: time.Hour, Receipts: time.Nanosecond},
		Every: time.Hour, Rate: 1 << 20, Now: time.Now, Done: func(_ mutlog.User, done mutlog.Pruning, err error) {
			mu.Lock()
			defer mu.Unlock()
			if dropped += done.Dropped; err != nil {
				t.Error(err)
			}
			rounds++
		}}
	const users = 20
	var wg sync.WaitGroup
	for u := range users {
		wg.Go(func() {
			user, d := mutlog.User(fmt.Sprint("user-", u)), mutlogtest.NewDevice()
			w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(1, uint64(u))), Resources: 20}
			log := mutlog.New(s, mutlog.DefaultLimits)
			for range 60 {
				push(t, s, user, w.Batch(20)...)
				if err := d.Pull(t.Context(), log, user); err != nil {
					t.Error(err)
				}
			}
			fresh := mutlogtest.NewDevice()
			if err := fresh.Pull(t.Context(), log, user); err != nil {
				t.Error(err)
			}
			same(t, "what a device holds", fresh.Rows, d.Rows)
		})
	}
	for range 10 {
		if err := j.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if err := j.Round(t.Context()); err != nil || dropped == 0 {
		t.Fatalf("%d mutations were dropped, %v", dropped, err)
	}
	rounds = 0
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	var janitors sync.WaitGroup
	for range 3 {
		janitors.Go(func() {
			if err := j.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Run returned %v", err)
			}
		})
	}
	janitors.Wait()
	if rounds > users {
		t.Errorf("%d logs were pruned in a round of %d", rounds, users)
	}
}

// A store whose resources are changed again and again stays within 3 times the
// size that it has with each of them once, for as long as that goes on.
func TestSizeStaysBounded(t *testing.T) {
	t.Parallel()
	resources, updates := 2000, 20
	if *long {
		resources, updates = 10_000, 100
	}
	o := backend{"bolt", tempFile, bolted(BoltOptions{NoSync: true, FoldBatches: 2000})}.opener(t)
	s := o.open()
	log := mutlog.New(s, mutlog.DefaultLimits)
	clock := &mutlogtest.Clock{}
	log.Now = clock.Now
	rnd := rand.New(rand.NewPCG(mutlogtest.Seed(t), 1))
	now := int64(1_000_000)
	put := func(ids []int) {
		var mutations []mutlog.Mutation
		for _, id := range ids {
			mutations = append(mutations, note(mutlog.Update, fmt.Sprint("resource-", id), fmt.Sprintf(`{"text":"%0200d"}`, rnd.Int())))
		}
		now += int64(10 * len(ids)) // 100 a second
		clock.Set(now)
		p := mutlog.Push{Base: must[mutlog.Timestamp](t)(log.Head(t.Context(), "alice")), Mutations: mutations}
		must[*mutlog.Pushed](t)(log.Push(t.Context(), "alice", p))
	}
	for id := 0; id < resources; id += 10 {
		put([]int{id, id + 1, id + 2, id + 3, id + 4, id + 5, id + 6, id + 7, id + 8, id + 9})
	}
	s = o.reopen(s)
	log = mutlog.New(s, mutlog.DefaultLimits)
	log.Now = clock.Now
	size := func() int64 { return must[int64](t)(s.(*Bolt).Size()) } // the file grows 16 MiB at a time
	live := size()
	retention := mutlog.Retention{History: time.Second, Tombstones: time.Second, Receipts: time.Second}
	largest := live
	for n := 0; n < updates*resources; {
		for range resources / 40 {
			ids := make([]int, 10)
			for i := range ids {
				ids[i] = rnd.IntN(resources)
			}
			put(ids)
			n += len(ids)
		}
		if _, err := retention.Prune(t.Context(), s, "alice", clock.Now(), noPause); err != nil {
			t.Fatal(err)
		}
		largest = max(largest, size())
	}
	t.Logf("live %d KiB, largest %d KiB: %.2f times", live>>10, largest>>10, float64(largest)/float64(live))
	if largest > 3*live {
		t.Errorf("the store grew to %d bytes, from %d", largest, live)
	}
}

// Rule 19: what was superseded a short while ago stays, and of each resource what
// was the newest when that began.
func TestRetentionKeepsHistory(t *testing.T) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			s, clock := b.opener(t).open(), &mutlogtest.Clock{}
			log := mutlog.New(s, mutlog.DefaultLimits)
			log.Now = clock.Now
			head := mutlog.Beginning
			for i, now := range []int64{1000, 2000, 3000, 4000, 8000, 9000} {
				clock.Set(now)
				head = must[*mutlog.Pushed](t)(log.Push(t.Context(), "alice", mutlog.Push{Base: head,
					Mutations: []mutlog.Mutation{note(mutlog.Update, "a", fmt.Sprintf(`{"i":%d}`, i))}})).Head
			}
			retention := mutlog.Retention{History: 4 * time.Second, Receipts: time.Second}
			if _, err := retention.Prune(t.Context(), s, "alice", time.UnixMilli(9000), noPause); err != nil {
				t.Fatal(err)
			}
			left, _ := mutlogtest.Pull(t, log, "alice", mutlog.Query{Since: mutlog.Beginning, History: true})
			var at []mutlog.Timestamp
			for _, m := range left {
				at = append(at, m.Timestamp)
			}
			same(t, "what is left", []mutlog.Timestamp{4000, 8000, 9000}, at)
		})
	}
}
