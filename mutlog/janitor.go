package mutlog

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// Janitor prunes all logs of a store, again and again, slowly beside the traffic.
// Of several that share a store, one does each round.
type Janitor struct {
	Store     Store
	Retention Retention

	// Every is the time from one round to the next.
	Every time.Duration

	// Rate bounds how many mutations are read in a second.
	Rate int

	// Now is the clock that says how old mutations are.
	Now func() time.Time

	// Done, if it is set, is told what came of each log, and of a round, with no
	// user, if that could not go on. Calls come from several goroutines.
	Done func(user User, done Pruning, err error)
}

// janitors is how many logs are pruned at once: what is left of small logs then
// shares the transactions that write it.
const janitors = 8

// Run prunes until ctx is done, and returns its error.
func (j *Janitor) Run(ctx context.Context) error {
	for {
		due, err := j.claim(ctx)
		if err == nil && due {
			err = j.Round(ctx)
		}
		if err != nil && ctx.Err() == nil {
			j.tell("", Pruning{}, err)
		}
		if err := sleep(ctx, min(j.Every, time.Minute)); err != nil {
			return err
		}
	}
}

// errNotDue says that a round has begun not long ago.
var errNotDue = errors.New("a round has begun not long ago")

// claim tells whether a round is due, and if so, that this one has begun.
func (j *Janitor) claim(ctx context.Context) (bool, error) {
	now := Timestamp(j.Now().UnixMilli())
	key := RecordKey{Kind: "retention", Name: "round"}
	err := j.Store.UpdateRecord(ctx, key, func(old []byte) ([]byte, error) {
		var last struct{ Began Timestamp }
		if json.Unmarshal(old, &last) == nil && last.Began <= now && now-last.Began < Timestamp(j.Every.Milliseconds()) {
			return nil, errNotDue
		}
		last.Began = now
		return json.Marshal(last)
	})
	if err == errNotDue {
		return false, nil
	}
	return err == nil, err
}

// Round prunes all logs once. An error of one log does not keep it from others.
func (j *Janitor) Round(ctx context.Context) error {
	users := make(chan User)
	var wg sync.WaitGroup
	p := &pace{start: time.Now(), rate: j.Rate}
	for range janitors {
		wg.Go(func() {
			for user := range users {
				done, err := j.Retention.Prune(ctx, j.Store, user, j.Now(), func(read int) error { return p.wait(ctx, read) })
				if ctx.Err() == nil {
					j.tell(user, done, err)
				}
			}
		})
	}
	err := j.Store.Users(ctx, func(user User) error {
		select {
		case users <- user:
			return p.wait(ctx, 1)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	close(users)
	wg.Wait()
	return err
}

func (j *Janitor) tell(user User, done Pruning, err error) {
	if j.Done != nil {
		j.Done(user, done, err)
	}
}

// pace bounds how fast mutations are read.
type pace struct {
	mu    sync.Mutex
	start time.Time
	rate  int
	read  int
}

// wait waits until n mutations more may have been read.
func (p *pace) wait(ctx context.Context, n int) error {
	p.mu.Lock()
	p.read += n
	due := p.start.Add(time.Duration(float64(p.read) / float64(p.rate) * float64(time.Second)))
	p.mu.Unlock()
	return sleep(ctx, time.Until(due))
}

// sleep waits for d, or until ctx is done, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
