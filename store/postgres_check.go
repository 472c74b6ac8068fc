package store

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// Check implements mutlog.Store: that the rows of each log belong together, and
// the checksum of each mutation. What lies below that, the database answers for
// (amcheck, data checksums). The store may be in service meanwhile: a log that is
// pruned or erased while it is checked is checked again.
func (s *Postgres) Check(ctx context.Context, report func(problem string)) error {
	err := s.eachStep(ctx, func(logs []userHead) error {
		for _, log := range logs {
			if err := s.checkUser(ctx, log.user, report); err != nil {
				return err
			}
		}
		return nil
	})
	for _, table := range []string{"batches", "mutations"} {
		if err == nil {
			err = s.checkOwners(ctx, table, report)
		}
	}
	return err
}

// checkUser checks the log of one user.
func (s *Postgres) checkUser(ctx context.Context, user []byte, report func(string)) error {
	wait := backoff{}
	for {
		// Read first, it cannot be later than the head that is read next.
		ends, err := collect(ctx, s, pgx.RowTo[int64], `SELECT coalesce(max(at), -1) FROM tidemark.mutations WHERE user_id = $1`, user)
		if err != nil {
			return err
		}
		tx, err := s.begin(ctx, mutlog.User(user))
		if err != nil {
			return err
		}
		c := &postgresCheck{tx: tx, end: mutlog.Timestamp(ends[0])}
		err = c.run()
		tx.release()
		if err == errRaced { //nolint:errorlint // it is not wrapped
			if err := wait.next(ctx); err != nil {
				return err
			}
			continue
		}
		for _, fault := range c.faults {
			report(fmt.Sprintf("user %q: %s", user, fault))
		}
		return err
	}
}

// checkOwners checks that there is a log to whatever there is of a user, unless
// that is what an erasure has still to remove.
func (s *Postgres) checkOwners(ctx context.Context, table string, report func(string)) error {
	end := map[string]string{"batches": "last", "mutations": "at"}[table]
	user := []byte{}
	for first := true; ; first = false {
		users, err := collect(ctx, s, pgx.RowTo[[]byte], `SELECT user_id FROM tidemark.`+table+` WHERE user_id >= $1 AND (user_id > $1 OR $2) ORDER BY user_id LIMIT 1`, user, first)
		if err != nil || len(users) == 0 {
			return err
		}
		user = users[0]
		rest, err := collect(ctx, s, pgx.RowTo[int64], `SELECT `+end+` FROM tidemark.`+table+` WHERE user_id = $1
AND `+end+` > coalesce((SELECT max(until) FROM tidemark.gaps WHERE user_id = $2), -1)
AND NOT EXISTS (SELECT 1 FROM tidemark.logs WHERE user_id = $1) LIMIT 1`, user, nameHash(user))
		if err != nil {
			return err
		}
		if len(rest) > 0 {
			report(fmt.Sprintf("user %q: there is %d in %s, and no log", user, rest[0], table))
		}
	}
}
