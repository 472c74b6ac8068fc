package store

import (
	"cmp"
	"iter"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// batchesWith returns the statement that reads the batches that a subquery
// finds, with their mutations, in order.
func batchesWith(subquery string) string {
	return `SELECT b.previous, b.base, b.client, b.key, b.live, ` + mutationColumns + ` FROM (` + subquery + `) AS b
CROSS JOIN LATERAL (
	SELECT * FROM tidemark.mutations AS n WHERE n.user_id = $1 AND n.at >= b.first AND n.at <= b.last
) AS m ORDER BY m.at`
}

var (
	// selectBatches: those up to the head $3 with mutations later than $2.
	selectBatches = batchesWith(`
	SELECT * FROM (
		SELECT c.*, coalesce(sum(c.mutations) OVER earlier, 0) AS n, coalesce(sum(c.bytes) OVER earlier, 0) AS size
		FROM tidemark.batches AS c
		WHERE c.user_id = $1 AND c.last > $2 AND c.last <= $3
		WINDOW earlier AS (ORDER BY c.last ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
		ORDER BY c.last LIMIT $4
	) AS c WHERE c.n < $4 AND c.size < $5`)

	selectBatchByKey = batchesWith(`
	SELECT * FROM tidemark.batches WHERE user_id = $1 AND last <= $2 AND last > $4 AND key = $3 AND receipt`)

	// selectOn: the batch that was pushed on the head $3, which is the first behind
	// that and the floor $4; and the first of those that were merged on it.
	selectOn = batchesWith(`
	(SELECT * FROM (
		SELECT * FROM tidemark.batches WHERE user_id = $1 AND last <= $2 AND last > $3 AND last > $4 ORDER BY last LIMIT 1
	) AS c WHERE c.previous = $3 AND c.base = $3 AND c.key IS NULL AND c.receipt)
	UNION ALL (` + mergedOn + `)`)

	// selectMergedOn: those behind $4 that were pushed on $3 and merged.
	selectMergedOn = batchesWith(mergedOn)
)

const mergedOn = `
	SELECT * FROM tidemark.batches WHERE user_id = $1 AND last <= $2 AND base = $3 AND last > $4 AND base <> previous AND key IS NULL AND receipt
	ORDER BY last LIMIT $5`

// mergedAtOnce is how many merged batches of one base are read at once.
const mergedAtOnce = 8

// Batches implements mutlog.Reader.
func (tx *postgresTx) Batches(after mutlog.Timestamp, n int) ([]*mutlog.Batch, error) {
	if err := tx.pin(); err != nil || tx.log.head <= after {
		return nil, err
	}
	return tx.batches(selectBatches, tx.user, int64(max(after, tx.log.floor())), int64(tx.log.head), n, maxReadBytes)
}

// BatchByKey implements mutlog.Reader.
func (tx *postgresTx) BatchByKey(key string) (*mutlog.Batch, error) {
	if err := tx.pin(); err != nil || tx.log.head == mutlog.Beginning {
		return nil, err
	}
	if tx.expected.keyed && tx.expected.key == key {
		return tx.expected.batch(&tx.log), nil
	}
	batches, err := tx.batches(selectBatchByKey, tx.user, int64(tx.log.head), []byte(key), int64(tx.log.floor()))
	if err != nil || len(batches) == 0 {
		return nil, err
	}
	return batches[0], nil
}

// BatchesOn implements mutlog.Reader.
func (tx *postgresTx) BatchesOn(base mutlog.Timestamp) iter.Seq2[*mutlog.Batch, error] {
	return func(yield func(*mutlog.Batch, error) bool) {
		if err := tx.pin(); err != nil || tx.log.head <= base {
			if err != nil {
				yield(nil, err)
			}
			return
		}
		batches, err := tx.batches(selectOn, tx.user, int64(tx.log.head), int64(base), int64(tx.log.floor()), mergedAtOnce)
		for err == nil && len(batches) > 0 {
			for _, b := range batches {
				if !yield(b, nil) {
					return
				}
			}
			if len(batches) < mergedAtOnce {
				return // there are no more
			}
			batches, err = tx.batches(selectMergedOn, tx.user, int64(tx.log.head), int64(base), int64(batches[len(batches)-1].Head()), mergedAtOnce)
		}
		if err != nil {
			yield(nil, err)
		}
	}
}

// batches reads the batches that a statement made by batchesWith finds.
func (tx *postgresTx) batches(sql string, args ...any) (batches []*mutlog.Batch, err error) {
	err = tx.read(func() { batches = nil }, func(rows pgx.Rows) (err error) {
		batches, err = scanBatch(rows, tx.user, batches)
		return err
	}, sql, args...)
	return batches, err
}

// scanBatches reads all rows of such a statement.
func scanBatches(rows pgx.Rows, user []byte) (batches []*mutlog.Batch, err error) {
	for err == nil && rows.Next() {
		batches, err = scanBatch(rows, user, batches)
	}
	return batches, cmp.Or(err, rows.Err())
}

// scanBatch reads a row, which is a mutation, and adds it to the batches so far.
func scanBatch(rows pgx.Rows, user []byte, batches []*mutlog.Batch) ([]*mutlog.Batch, error) {
	var b mutlog.Batch
	var client, key []byte
	var live *string
	e, err := scanEntry(rows, user, (*int64)(&b.Previous), (*int64)(&b.Base), &client, &key, &live)
	if err != nil {
		return batches, err
	}
	if n := len(batches); n == 0 || batches[n-1].Previous != b.Previous {
		b.Client, b.Key = string(client), string(key)
		if b.Live, err = decodeLive(live); err != nil {
			return batches, err
		}
		batches = append(batches, &b)
	}
	last := batches[len(batches)-1]
	last.Entries = append(last.Entries, e)
	return batches, nil
}
