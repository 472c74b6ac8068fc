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
// serve that drops what was superseded a second ago.
func BenchmarkPushWhilePruning(b *testing.B) {
	for _, retention := range []bool{false, true} {
		b.Run(fmt.Sprintf("retention=%v", retention), func(b *testing.B) {
			s, err := OpenBolt(filepath.Join(b.TempDir(), "bench.db"), BoltOptions{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			ctx, stop := context.WithCancel(b.Context())
			var pruning sync.WaitGroup
			var dropped atomic.Int64
			if retention {
				j := &mutlog.Janitor{Store: s, Now: time.Now, Rate: 20_000,
					Retention: mutlog.Retention{History: time.Second, Tombstones: time.Second, Receipts: time.Second},
					Done:      func(_ mutlog.User, done mutlog.Pruning, _ error) { dropped.Add(int64(done.Dropped)) }}
				pruning.Go(func() {
					for ctx.Err() == nil {
						j.Round(ctx)
						time.Sleep(100 * time.Millisecond)
					}
				})
			}
			log := mutlog.New(s, mutlog.DefaultLimits)
			const users, resources = 100, 100
			var next atomic.Int64
			var pushing sync.WaitGroup
			b.ResetTimer()
			for u := range users {
				pushing.Go(func() {
					rnd, head := rand.New(rand.NewPCG(1, uint64(u))), mutlog.Beginning
					for next.Add(1) <= int64(b.N) {
						p := mutlog.Push{Base: head, Mutations: make([]mutlog.Mutation, 10)}
						for i := range p.Mutations {
							p.Mutations[i] = note(mutlog.Update, fmt.Sprint("nr-", rnd.IntN(resources)), fmt.Sprintf(`{"title":"a note","body":"%0120d"}`, rnd.Int()))
						}
						a, err := log.Push(ctx, mutlog.User(fmt.Sprint("user-", u)), p)
						if err != nil {
							b.Error(err)
							return
						}
						head = a.Head
					}
				})
			}
			pushing.Wait()
			b.StopTimer()
			stop()
			pruning.Wait()
			size, _ := s.Size()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "batches/s")
			b.ReportMetric(float64(dropped.Load()), "dropped")
			b.ReportMetric(float64(size>>20), "MiB")
		})
	}
}
