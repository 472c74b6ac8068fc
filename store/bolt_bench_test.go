package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// BenchmarkPush measures durable pushes without HTTP: 64 devices, each with a
// share of 10,000 users, chained cursors.
func BenchmarkPush(b *testing.B) {
	for _, size := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			s, err := OpenBolt(filepath.Join(b.TempDir(), "bench.db"), BoltOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			log := mutlog.New(s, mutlog.DefaultLimits)
			const devices, users = 64, 10000
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for d := range devices {
				wg.Go(func() {
					heads := map[int]mutlog.Timestamp{}
					rnd := rand.New(rand.NewPCG(1, uint64(d)))
					for next.Add(1) <= int64(b.N) {
						u := d + devices*rnd.IntN(users/devices)
						head, ok := heads[u]
						if !ok {
							head = mutlog.Beginning
						}
						p := mutlog.Push{Base: head, Mutations: make([]mutlog.Mutation, size)}
						for i := range p.Mutations {
							p.Mutations[i] = mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", ResourceID: uuid.NewString(),
								Data: fmt.Appendf(nil, `{"title":"a note %d","body":"%0*d","done":false}`, i, 120, rnd.Int())}
						}
						a, err := log.Push(context.Background(), mutlog.User(fmt.Sprint("user-", u)), p)
						if err != nil {
							b.Error(err)
							return
						}
						heads[u] = a.Head
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "batches/s")
		})
	}
}

// BenchmarkPushWhilePruning measures durable pushes of 10 updates each to 10,000
// resources of 100 users, with retention off, and with a janitor at the pace of
// serve that drops what was pushed to them two hours ago.
func BenchmarkPushWhilePruning(b *testing.B) {
	for _, retention := range []bool{false, true} {
		b.Run(fmt.Sprintf("retention=%v", retention), func(b *testing.B) {
			s, err := OpenBolt(filepath.Join(b.TempDir(), "bench.db"), BoltOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			log := mutlog.New(s, mutlog.DefaultLimits)
			earlier := time.Now().Add(-2 * time.Hour)
			log.Now = func() time.Time { return earlier }
			updateAll(b, log, 20_000)
			if err := s.foldAll(b.Context()); err != nil {
				b.Fatal(err)
			}
			log.Now = time.Now
			ctx, stop := context.WithCancel(b.Context())
			var pruning sync.WaitGroup
			var dropped atomic.Int64
			if retention {
				j := &mutlog.Janitor{Store: s, Now: time.Now, Rate: 20_000,
					Retention: mutlog.Retention{History: time.Hour, Tombstones: time.Hour, Receipts: time.Hour},
					Done:      func(_ mutlog.User, done mutlog.Pruning, _ error) { dropped.Add(int64(done.Dropped)) }}
				pruning.Go(func() { j.Round(ctx) })
			}
			b.ResetTimer()
			updateAll(b, log, b.N)
			b.StopTimer()
			stop()
			pruning.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "batches/s")
			b.ReportMetric(float64(dropped.Load()), "dropped")
		})
	}
}

// updateAll pushes n batches of 10 updates, for 100 users at once.
func updateAll(b *testing.B, log *mutlog.Log, n int) {
	const users, resources = 100, 100
	var next atomic.Int64
	var pushing sync.WaitGroup
	for u := range users {
		pushing.Go(func() {
			user := mutlog.User(fmt.Sprint("user-", u))
			head, err := log.Head(b.Context(), user)
			rnd := rand.New(rand.NewPCG(1, uint64(u)))
			for err == nil && next.Add(1) <= int64(n) {
				p := mutlog.Push{Base: head, Mutations: make([]mutlog.Mutation, 10)}
				for i := range p.Mutations {
					p.Mutations[i] = note(mutlog.Update, fmt.Sprint("nr-", rnd.IntN(resources)), fmt.Sprintf(`{"title":"a note","body":"%0120d"}`, rnd.Int()))
				}
				var a *mutlog.Pushed
				if a, err = log.Push(b.Context(), user, p); err == nil {
					head = a.Head
				}
			}
			if err != nil {
				b.Error(err)
			}
		})
	}
	pushing.Wait()
}

// BenchmarkPrune measures the pruning of 5,000 updates of 20 resources, behind
// which others are that are to be kept: how many must not matter.
func BenchmarkPrune(b *testing.B) {
	for _, kept := range []int{1000, 80_000} {
		b.Run(fmt.Sprintf("kept=%d", kept), func(b *testing.B) {
			s, err := OpenBolt(filepath.Join(b.TempDir(), "bench.db"), BoltOptions{NoSync: true})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			clock := &mutlogtest.Clock{}
			log := mutlog.New(s, mutlog.DefaultLimits)
			log.Now = clock.Now
			for round := 0; b.Loop(); round++ {
				b.StopTimer()
				user, head := mutlog.User(fmt.Sprint("user-", round)), mutlog.Beginning
				for n := 0; n < 5000+kept; n += 50 {
					p := mutlog.Push{Base: head, Mutations: make([]mutlog.Mutation, 50)}
					for i := range p.Mutations {
						p.Mutations[i] = note(mutlog.Update, fmt.Sprint("nr-", i%20), fmt.Sprintf(`{"n":%d}`, n))
					}
					clock.Set(1000 * int64(n+1))
					a, err := log.Push(b.Context(), user, p)
					if err != nil {
						b.Fatal(err)
					}
					head = a.Head
				}
				b.StartTimer()
				r := mutlog.Retention{History: time.Duration(kept) * time.Second, Receipts: time.Second}
				done, err := r.Prune(b.Context(), s, user, clock.Now(), noPause)
				if err != nil || done.Dropped == 0 {
					b.Fatalf("%+v, %v", done, err)
				}
			}
		})
	}
}
