package store

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// listen hears other processes, on a connection of its own, until the store is
// closed. While there is no such connection, it makes followers look for
// themselves.
func (s *Postgres) listen() {
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	for wait := 0; s.closing.Err() == nil; wait = min(wait+1, maxPolls) {
		if s.hearAll(s.closing) {
			wait = 0 // it was heard through it
		}
		for range wait {
			s.miss()
			select {
			case <-poll.C:
			case <-s.closing.Done():
				return
			}
		}
	}
}

// maxPolls bounds how many times followers look for themselves until listening
// is tried again.
const maxPolls = 60

// hearAll connects and hears until the connection is lost. It returns whether
// anything could be heard.
func (s *Postgres) hearAll(ctx context.Context) (heard bool) {
	connecting, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(connecting, s.pool.Config().ConnConfig)
	if err != nil {
		return false
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.timeout)
		defer cancel()
		conn.Close(closing)
	}()
	if _, err := conn.Exec(connecting, `LISTEN `+channel); err != nil {
		return false
	}
	for s.probe(ctx, conn) {
		s.miss() // what was sent before the connection was there, or by nobody
		heard = true
		if !s.hearUntil(ctx, conn, time.Now().Add(s.lookAgain), false) {
			return true
		}
	}
	return heard
}

// probe tells whether a notification that this process sends is heard.
func (s *Postgres) probe(ctx context.Context, conn *pgx.Conn) bool {
	return s.sendNotifications(ctx, []string{s.process}) == nil && s.hearUntil(ctx, conn, time.Now().Add(s.timeout), true)
}

// hearUntil hears until then, or until a probe of this process. It returns whether
// that is how it ended.
func (s *Postgres) hearUntil(ctx context.Context, conn *pgx.Conn, then time.Time, probing bool) bool {
	waiting, cancel := context.WithDeadline(ctx, then)
	defer cancel()
	for {
		n, err := conn.WaitForNotification(waiting)
		if err != nil {
			return !probing && waiting.Err() != nil && ctx.Err() == nil && !conn.IsClosed()
		}
		if s.hear(n.Payload) && probing {
			return true
		}
	}
}
