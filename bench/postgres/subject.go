package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tidemark/mutlog"
)

// dataBytes is the size of the data of a mutation.
const dataBytes = 200

var data = []byte(`{"text":"` + strings.Repeat("x", dataBytes-11) + `"}`)

// subject pushes and polls through the store, as the server does.
type subject struct {
	settings
	log   *mutlog.Log
	heads []mutlog.Timestamp // of the users; each belongs to one connection
	next  []int              // how often each user has pushed
}

func newSubject(s mutlog.Store, o settings) *subject {
	return &subject{settings: o, log: mutlog.New(s, mutlog.DefaultLimits), heads: make([]mutlog.Timestamp, 2*o.users), next: make([]int, 2*o.users)}
}

func user(u int) mutlog.User { return mutlog.User(fmt.Sprintf("user-%08d", u)) }

// fill begins the logs of all users, the second half of whom are pgbench's.
func (s *subject) fill() error {
	run := time.Now().UnixNano()
	for u := range s.heads {
		s.heads[u] = mutlog.Beginning
		s.next[u] = int(run / 1000)
	}
	_, err := s.all(func(c, i int) (bool, error) {
		u := c + i*s.connections
		if u >= len(s.heads) {
			return false, nil
		}
		head, err := s.log.Head(context.Background(), user(u))
		if s.heads[u] = head; err != nil {
			return false, err
		}
		return true, s.push(u)
	})
	return err
}

func (s *subject) push(u int) error {
	p := mutlog.Push{Base: s.heads[u], Mutations: make([]mutlog.Mutation, s.mutations)}
	s.next[u]++
	for i := range p.Mutations {
		p.Mutations[i] = mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", ResourceID: fmt.Sprintf("%018d-%02d", s.next[u], i), Data: data}
	}
	answer, err := s.log.Push(context.Background(), user(u), p)
	if err == nil {
		s.heads[u] = answer.Head
	}
	return err
}

// pushes returns how many pushes there are in a second.
func (s *subject) pushes() (float64, error) {
	return s.turn(func(u int) error { return s.push(u) })
}

// polls returns how many look-ups of a head there are in a second.
func (s *subject) polls() (float64, error) {
	return s.turn(func(u int) error {
		_, err := s.log.Head(context.Background(), user(u))
		return err
	})
}

// turn calls fn for one user after the other on each connection for the length
// of a turn.
func (s *subject) turn(fn func(u int) error) (float64, error) {
	start := time.Now()
	each := s.users / s.connections
	n, err := s.all(func(c, i int) (bool, error) {
		if time.Since(start) > s.length {
			return false, nil
		}
		return true, fn(c + i%each*s.connections)
	})
	return float64(n) / time.Since(start).Seconds(), err
}

// all runs fn on every connection, with its number and 0, 1, 2 …, until it wants no
// more, and returns how often.
func (s *subject) all(fn func(connection, i int) (bool, error)) (n int64, err error) {
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	var count atomic.Int64
	for c := range s.connections {
		wg.Go(func() {
			for i := 0; failed.Load() == nil; i++ {
				more, err := fn(c, i)
				if err != nil {
					failed.Store(&err)
				}
				if !more {
					return
				}
				count.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return count.Load(), nil
}
