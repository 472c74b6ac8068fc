package store

import (
	"context"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// countStep bounds how many places one transaction counts.
const countStep = 50_000

// CountBatches returns how many batches the log of user has, for whoever tells how
// far they have come with it: it may grow, and be pruned, meanwhile.
func (s *Bolt) CountBatches(ctx context.Context, user mutlog.User) (int64, error) {
	return s.countBatches(ctx, user, countStep)
}

func (s *Bolt) countBatches(ctx context.Context, user mutlog.User, step int64) (n int64, err error) {
	after := mutlog.Beginning
	for more := true; more && err == nil; {
		more = false
		err = s.view(ctx, prefixOf(user), func(tx *boltTx) error {
			until := n + step
			return tx.walk(after, func(pl place) (bool, error) {
				after = pl.head()
				n++
				more = n == until
				return !more, nil
			})
		})
	}
	return n, err
}

// CountBatches does what that of Bolt does.
func (s *Postgres) CountBatches(ctx context.Context, user mutlog.User) (int64, error) {
	return s.count(ctx, `SELECT count(*) FROM tidemark.batches WHERE user_id = $1`, []byte(user))
}

// CountAllBatches returns how many batches there are in all logs.
func (s *Postgres) CountAllBatches(ctx context.Context) (int64, error) {
	return s.count(ctx, `SELECT count(*) FROM tidemark.batches`)
}

func (s *Postgres) count(ctx context.Context, sql string, args ...any) (int64, error) {
	counts, err := collect(ctx, s, pgx.RowTo[int64], sql, args...)
	if err != nil {
		return 0, err
	}
	return counts[0], nil
}
