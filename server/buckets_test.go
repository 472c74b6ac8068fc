package server

import (
	"hash/maphash"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"
)

// TestBucket compares a bucket, of which the limiter knows only when it is full
// again, with one that is filled as time passes.
func TestBucket(t *testing.T) {
	for _, rate := range []Rate{{1, time.Second}, {3, 9 * time.Second}, {500, 10 * time.Second}, {8, 24 * time.Hour}} {
		l := newLimiter("user", rate)
		each := rate.Window / time.Duration(rate.Requests)
		level, now := rate.Window, int64(time.Hour)
		random := rand.New(rand.NewPCG(1, uint64(rate.Requests)))
		for range 20000 {
			var step time.Duration
			if random.IntN(4) == 0 {
				step = time.Duration(random.Int64N(int64(4 * each)))
			}
			now += int64(step)
			level = min(rate.Window, level+step)
			if wait := l.wait(42, now); max(0, wait) != max(0, each-level) {
				t.Fatalf("%v: wait %v at level %v", rate, wait, level)
			}
			left, after := l.take(42, now)
			if level < each {
				if left != -1 || after != each-level {
					t.Fatalf("%v: %d left, wait %v at level %v", rate, left, after, level)
				}
				continue
			}
			level -= each
			if left != int(level/each) || after != each-level%each {
				t.Fatalf("%v: %d left and one more in %v at level %v", rate, left, after, level)
			}
		}
	}
}

// A million addresses stay under 32 MiB, all buckets together; those that were
// held back before are still, and what a newcomer gets is a full bucket.
func TestManyAddresses(t *testing.T) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	rate := Rate{100, 10 * time.Second}
	all := newThrottle(Rates{User: rate, Peer: rate, Failed: rate})
	limiters := []*limiter{all.users, all.peers, all.failures}
	key := func(n uint64) uint64 { return maphash.Comparable(all.seed, n) }

	now := int64(time.Hour)
	const bad = 1000
	for n := range uint64(bad) {
		for range rate.Requests {
			all.peers.take(key(n), now)
		}
	}
	for n := uint64(bad); n < 1_000_000+bad; n++ {
		for _, l := range limiters {
			if left, _ := l.take(key(n), now); left != rate.Requests-1 {
				t.Fatalf("address %d has %d left of a full bucket", n, left)
			}
		}
	}
	if grown := heap() - before; grown > 32<<20 {
		t.Errorf("a million addresses hold %d MiB, over 32", grown>>20)
	} else {
		t.Logf("a million addresses in three limiters: %.1f MiB", float64(grown)/(1<<20))
	}
	for n := range uint64(bad) {
		if left, _ := all.peers.take(key(n), now); left != -1 {
			t.Errorf("address %d was forgotten, and with it that it has to wait", n)
		}
	}
	runtime.KeepAlive(all)
}

func BenchmarkTake(b *testing.B) {
	all := newThrottle(Rates{Peer: Rate{1e6, time.Second}})
	b.RunParallel(func(p *testing.PB) {
		n := rand.Uint64()
		for p.Next() {
			n++
			all.peers.take(maphash.Comparable(all.seed, n%100000), all.now())
		}
	})
}
