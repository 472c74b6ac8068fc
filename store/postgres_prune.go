package store

import (
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"tidemark/mutlog"
)

// pruning is what Prune was called with.
type pruning struct {
	after, until mutlog.Timestamp
	keep         []int64
}

// Prune implements mutlog.Tx.
func (tx *postgresTx) Prune(after, until mutlog.Timestamp, keep []mutlog.Timestamp) error {
	if err := tx.pin(); err != nil {
		return err
	}
	if until > tx.pruned() {
		return fmt.Errorf("pruned until %d, beyond the bounds, %d", until, tx.pruned())
	}
	p := &pruning{after: max(after, tx.log.floor()), until: min(until, tx.log.head), keep: make([]int64, len(keep))}
	for i, t := range keep {
		p.keep[i] = int64(t)
	}
	tx.prune = p
	return nil
}

// lockLog is the compare-and-set of a pruning. It does not mind pushes, and
// keeps them waiting until the pruning is durable.
const lockLog = `UPDATE tidemark.logs SET revision = revision + 1, pruned = $3, horizon = $4, gaps = $5 WHERE user_id = $1 AND revision = $2`

// inRange finds the batches b that lie wholly behind $2 and not behind $3.
const inRange = ` b.user_id = $1 AND b.first > $2 AND b.last > $2 AND b.last <= $3`

// The statements of a pruning, in order. What is kept stays in its batch, which
// is a receipt no more; a batch of which nothing is kept goes.
const (
	selectLive = `SELECT b.live FROM tidemark.batches AS b WHERE` + inRange + ` ORDER BY b.last DESC LIMIT 1`

	pruneMutations = `DELETE FROM tidemark.mutations AS m USING tidemark.batches AS b
WHERE` + inRange + ` AND m.user_id = $1 AND m.at >= b.first AND m.at <= b.last
AND NOT EXISTS (SELECT 1 FROM unnest($4::bigint[]) AS k (at) WHERE k.at = m.at)`

	pruneBatches = `DELETE FROM tidemark.batches AS b WHERE` + inRange + ` AND NOT EXISTS (
	SELECT 1 FROM tidemark.mutations AS m WHERE m.user_id = $1 AND m.at >= b.first AND m.at <= b.last)`

	keepBatches = `UPDATE tidemark.batches AS u SET first = k.first, last = k.last, mutations = k.n, bytes = k.bytes,
	base = u.previous, client = '', key = NULL, receipt = false, live = NULL
FROM (
	SELECT b.last AS old, min(n.at) AS first, max(n.at) AS last, count(*) AS n, sum(` + octets + `) AS bytes
	FROM tidemark.batches AS b JOIN tidemark.mutations AS n ON n.user_id = $1 AND n.at >= b.first AND n.at <= b.last
	WHERE` + inRange + ` GROUP BY b.last
) AS k WHERE u.user_id = $1 AND u.last = k.old`

	keepLive = `UPDATE tidemark.batches AS u SET live = $4 WHERE u.user_id = $1 AND u.last = (
	SELECT b.last FROM tidemark.batches AS b WHERE` + inRange + ` ORDER BY b.last DESC LIMIT 1)`
)

// applyPrune makes a pruning durable. It is two round trips: what follows is
// only right if the compare-and-set has succeeded.
func (tx *postgresTx) applyPrune() error {
	bounds := tx.log.bounds
	if tx.bounds != nil {
		bounds = *tx.bounds
	}
	p := tx.prune
	args := []any{tx.user, int64(p.after), int64(p.until)}
	b := &pgx.Batch{}
	b.Queue(beginWrite)
	b.Queue(lockLog, tx.user, tx.log.revision, int64(bounds.Pruned), int64(bounds.Horizon), gapArray(bounds.Gaps)).Exec(func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() == 0 {
			return errRaced
		}
		return nil
	})
	var live *string
	b.Queue(selectLive, args...).Query(func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, pgx.RowTo[*string])
		if len(found) > 0 {
			live = found[0]
		}
		return err
	})
	if err := tx.commit(b); err != nil {
		return tx.applied(err, tx.s.failure)
	}
	b = &pgx.Batch{}
	b.Queue(pruneMutations, append(args, p.keep)...)
	b.Queue(pruneBatches, args...)
	b.Queue(keepBatches, args...)
	b.Queue(keepLive, append(args, live)...)
	b.Queue(`COMMIT`)
	return tx.applied(tx.commit(b), tx.s.commitFailure)
}

// applied returns errRaced for what is to be tried again, or what failure makes
// of an error.
func (tx *postgresTx) applied(err error, failure func(error) error) error {
	if err == errRaced || isSerialization(err) || sqlState(err) == stateUniqueViolation { //nolint:errorlint // it is not wrapped
		return errRaced
	}
	return failure(err)
}
