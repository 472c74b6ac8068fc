package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

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
