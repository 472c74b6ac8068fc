package server

import (
	"sync"
	"time"
)

// limiter holds a bucket for each of many keys, in memory that does not grow
// with them. golang.org/x/time/rate has buckets of 80 bytes behind pointers,
// which would need a map, a list of the oldest and a lock around both; one
// number is enough for a bucket: the time at which it is full again.
//
// It is a cache of bucketSets sets of a few buckets each. A key belongs to one
// set. Where that has no bucket for it, it gets the one that is full again
// soonest, as a rule one that is full already, which nobody misses. So somebody
// with countless addresses cannot make the limiter forget those that it holds
// back: theirs are the ones that take longest to be full again.
type limiter struct {
	name     string
	quoted   string   // name as a string of structured fields
	policy   []string // the value of RateLimit-Policy
	window   int64    // nanoseconds in which an empty bucket is full
	interval int64    // nanoseconds in which one request is refilled
	sets     []bucketSet
}

const (
	// bucketSets is how many sets a limiter has: 8 MiB, which the system gives
	// as they are used.
	bucketSets = 1 << 16

	// bucketsPerSet makes a set two lines of the processor's cache.
	bucketsPerSet = 7
)

type bucketSet struct {
	mu      sync.Mutex
	buckets [bucketsPerSet]bucket
	_       [8]byte
}

// bucket is that of the key of a hash. Two keys of one hash share it, which
// happens to nobody: it is seeded.
type bucket struct {
	hash   uint64
	fullAt int64 // nanoseconds; what is past means that it is full
}

// take takes a request out of the bucket of a key. It returns how many
// are left and when there will be one more, or -1 and how long to wait.
func (l *limiter) take(hash uint64, now int64) (left int, after time.Duration) {
	set := &l.sets[hash%bucketSets]
	set.mu.Lock()
	defer set.mu.Unlock()
	b := set.bucket(hash)
	fullAt := max(b.fullAt, now) + l.interval
	if wait := fullAt - now - l.window; wait > 0 {
		return -1, time.Duration(wait)
	}
	b.fullAt = fullAt
	left = int((now + l.window - fullAt) / l.interval)
	return left, time.Duration((fullAt-now-1)%l.interval + 1)
}

// wait returns how long to wait until a request can be taken out of the bucket
// of a key, without taking it.
func (l *limiter) wait(hash uint64, now int64) time.Duration {
	set := &l.sets[hash%bucketSets]
	set.mu.Lock()
	defer set.mu.Unlock()
	for i := range set.buckets {
		if b := &set.buckets[i]; b.hash == hash {
			return time.Duration(max(b.fullAt, now) + l.interval - now - l.window)
		}
	}
	return 0
}

// bucket returns the bucket of a key, which may be that of another until now.
func (s *bucketSet) bucket(hash uint64) *bucket {
	soonest := &s.buckets[0]
	for i := range s.buckets {
		b := &s.buckets[i]
		if b.hash == hash {
			return b
		}
		if b.fullAt < soonest.fullAt {
			soonest = b
		}
	}
	*soonest = bucket{hash: hash}
	return soonest
}
