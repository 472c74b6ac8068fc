package store

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"tidemark/mutlog"
)

// eraseStep is how many rows an erasure removes in one transaction.
const eraseStep = 2000

// The statements that begin an erasure. With its row the log is gone, for all
// who read and push; what else there is of it stands up to the gap, where no new
// log of the user will look.
const (
	insertGap = `INSERT INTO tidemark.gaps (user_id, until) VALUES ($1, $2) ON CONFLICT DO NOTHING`
	deleteLog = `DELETE FROM tidemark.logs WHERE user_id = $1 AND head <= $2`
)

// The statements that remove the rest, some at a time.
const (
	eraseMutations = `DELETE FROM tidemark.mutations WHERE user_id = $1 AND at <= $2 AND at <= (
	SELECT max(at) FROM (SELECT at FROM tidemark.mutations WHERE user_id = $1 AND at <= $2 ORDER BY at LIMIT $3) AS next)`

	eraseBatches = `DELETE FROM tidemark.batches WHERE user_id = $1 AND last <= $2 AND last <= (
	SELECT max(last) FROM (SELECT last FROM tidemark.batches WHERE user_id = $1 AND last <= $2 ORDER BY last LIMIT $3) AS next)`

	eraseRecords = `DELETE FROM tidemark.records WHERE user_id = $1`
)

// Erase implements mutlog.Store.
func (s *Postgres) Erase(ctx context.Context, user mutlog.User, until mutlog.Timestamp, progress func(mutations int)) error {
	name := []byte(user)
	until, err := s.beginErasure(ctx, user, until)
	if err != nil {
		return err
	}
	total := 0
	for _, sql := range []string{eraseMutations, eraseBatches} {
		for more := true; more; {
			n, err := s.exec(ctx, sql, name, int64(until), eraseStep)
			if err != nil {
				return err
			}
			if sql == eraseMutations {
				total += int(n)
				progress(total)
			}
			more = n > 0
		}
	}
	_, err = s.exec(ctx, eraseRecords, name)
	return err
}

// beginErasure puts a gap in the place of the log and returns up to where that is.
func (s *Postgres) beginErasure(ctx context.Context, user mutlog.User, until mutlog.Timestamp) (mutlog.Timestamp, error) {
	wait := backoff{}
	for {
		tx, err := s.begin(ctx, user)
		if err != nil {
			return 0, err
		}
		until, err = tx.erase(until)
		tx.release()
		if err != errRaced { //nolint:errorlint // it is not wrapped
			return until, err
		}
		if err := wait.next(ctx); err != nil {
			return 0, err
		}
	}
}

// erase is a try of beginErasure; errRaced if the log has moved on past the gap.
func (tx *postgresTx) erase(until mutlog.Timestamp) (mutlog.Timestamp, error) {
	bounds, err := tx.Bounds()
	if err != nil {
		return until, err
	}
	until = max(until, tx.log.head)
	for _, g := range bounds.Gaps {
		until = max(until, g.Until) // an erasure that was interrupted, and what the row knows of fences
	}
	b := &pgx.Batch{}
	b.Queue(beginWrite)
	b.Queue(insertGap, nameHash(tx.user), int64(until))
	raced := false
	b.Queue(deleteLog, tx.user, int64(until)).Exec(func(tag pgconn.CommandTag) error {
		raced = tx.exists && tag.RowsAffected() == 0
		return nil
	})
	b.Queue(`COMMIT`)
	err = tx.commit(b)
	if err == nil && raced {
		return until, errRaced
	}
	return until, tx.applied(err, tx.s.commitFailure)
}
