package webhook

import (
	"container/heap"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"tidemark/mutlog"
)

const (
	// maxWaiting bounds the users of whom something waits to be told.
	maxWaiting = 10_000

	// The pauses between two tries of one message grow from the least to the
	// most, with a random part; after maxTries, in all about a day, it is given
	// up.
	leastPause = 1 * time.Second
	mostPause  = 2 * time.Hour
	maxTries   = 24
)

// message is what is to be told of one user.
type message struct {
	user  mutlog.User
	head  mutlog.Timestamp
	id    string // the same for every try
	made  time.Time
	tries int
	due   time.Time

	sending bool             // it is not in the heap
	newer   mutlog.Timestamp // that came meanwhile, or Beginning
}

// queue holds one message of each user at most. The one that is due first is
// taken first; of one user, one at a time.
type queue struct {
	mu     sync.Mutex
	byUser map[mutlog.User]*message
	order  order
	some   chan struct{} // holds one if there may be something to take
}

func newQueue() *queue {
	return &queue{byUser: map[mutlog.User]*message{}, some: make(chan struct{}, 1)}
}

// put notes a head; ok is false if there is no room.
func (q *queue) put(user mutlog.User, head mutlog.Timestamp) (ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch m := q.byUser[user]; {
	case m == nil && len(q.byUser) >= maxWaiting:
		return false
	case m == nil:
		q.add(user, head)
	case m.sending:
		m.newer = max(m.newer, head)
	case head > m.head: // another message, but as late as the one in its place
		m.head, m.id, m.made = head, ulid.Make().String(), time.Now()
	}
	return true
}

// size is how many messages there are.
func (q *queue) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.byUser)
}

// add makes a message that is due now. q.mu is held.
func (q *queue) add(user mutlog.User, head mutlog.Timestamp) {
	now := time.Now()
	m := &message{user: user, head: head, id: ulid.Make().String(), made: now, due: now, newer: mutlog.Beginning}
	q.byUser[user] = m
	heap.Push(&q.order, m)
	q.wake()
}

// wake lets one who takes look again.
func (q *queue) wake() {
	select {
	case q.some <- struct{}{}:
	default:
	}
}

// take waits for a message that is due, and returns nil when ctx is done.
func (q *queue) take(ctx context.Context) *message {
	for ctx.Err() == nil {
		m, wait := q.first()
		if m != nil {
			return m
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-q.some:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// first takes the message that is due first, or returns how long to wait.
func (q *queue) first() (m *message, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return nil, time.Hour
	}
	if wait = time.Until(q.order[0].due); wait > 0 {
		return nil, wait
	}
	m = heap.Pop(&q.order).(*message)
	m.sending = true
	m.tries++
	if len(q.order) > 0 {
		q.wake() // there may be another one that is due
	}
	return m, 0
}

// last takes any message, due or not; nil if there is none.
func (q *queue) last() *message {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return nil
	}
	m := heap.Pop(&q.order).(*message)
	delete(q.byUser, m.user)
	return m
}

// sent notes how a try has ended. again tells whether the user is still to be
// told something.
func (q *queue) sent(m *message, delivered bool) (again bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	newer := m.newer > m.head
	switch {
	case delivered || m.tries >= maxTries:
		delete(q.byUser, m.user)
		if newer {
			q.add(m.user, m.newer)
		}
		return newer
	case newer: // another message, as late as this one would be
		m.head, m.id, m.made = m.newer, ulid.Make().String(), time.Now()
	}
	m.sending, m.newer = false, mutlog.Beginning
	m.due = time.Now().Add(pause(m.tries))
	heap.Push(&q.order, m)
	q.wake()
	return true
}

// pause is how long to wait after so many tries.
func pause(tries int) time.Duration {
	d := min(leastPause<<min(tries-1, 20), mostPause)
	return d/2 + rand.N(d)
}

// order is a heap of messages by when they are due.
type order []*message

func (o order) Len() int           { return len(o) }
func (o order) Less(i, j int) bool { return o[i].due.Before(o[j].due) }
func (o order) Swap(i, j int)      { o[i], o[j] = o[j], o[i] }
func (o *order) Push(m any)        { *o = append(*o, m.(*message)) }

func (o *order) Pop() any {
	last := (*o)[len(*o)-1]
	(*o)[len(*o)-1] = nil
	*o = (*o)[:len(*o)-1]
	return last
}
