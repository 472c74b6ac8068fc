package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// Users implements mutlog.Store.
func (s *Postgres) Users(ctx context.Context, fn func(mutlog.User) error) error {
	return s.eachStep(ctx, func(logs []userHead) error {
		for _, log := range logs {
			if log.head == mutlog.Beginning {
				continue // it has nothing but bounds
			}
			if err := fn(mutlog.User(log.user)); err != nil {
				return err
			}
		}
		return nil
	})
}

// userHead is a user with a row in logs, and its head.
type userHead struct {
	user []byte
	head mutlog.Timestamp
}

func scanUserHead(row pgx.CollectableRow) (u userHead, err error) {
	err = row.Scan(&u.user, (*int64)(&u.head))
	return u, err
}

// eachStep calls fn with all rows of logs in order, some at a time.
func (s *Postgres) eachStep(ctx context.Context, fn func([]userHead) error) error {
	const step = 1000
	after := []byte{}
	for first := true; ; first = false {
		logs, err := collect(ctx, s, scanUserHead, `SELECT user_id, head FROM tidemark.logs WHERE user_id >= $1 AND (user_id > $1 OR $2) ORDER BY user_id LIMIT $3`, after, first, step)
		if err != nil {
			return err
		}
		if len(logs) > 0 {
			if err := fn(logs); err != nil {
				return err
			}
		}
		if len(logs) < step {
			return nil
		}
		after = logs[len(logs)-1].user
	}
}
