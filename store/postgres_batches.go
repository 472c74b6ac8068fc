package store

import (
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

	// selectBatchOn: the batch that was pushed on the head $3, which is the first
	// behind that and the floor $4.
	selectBatchOn = batchesWith(`
	SELECT * FROM (
		SELECT * FROM tidemark.batches WHERE user_id = $1 AND last <= $2 AND last > $3 AND last > $4 ORDER BY last LIMIT 1
	) AS c WHERE c.previous = $3 AND c.base = $3 AND c.key IS NULL AND c.receipt`)

	// selectMergedOn: those behind $4 that were pushed on $3 and merged.
	selectMergedOn = batchesWith(`
	SELECT * FROM tidemark.batches WHERE user_id = $1 AND last <= $2 AND base = $3 AND last > $4 AND base <> previous AND key IS NULL AND receipt
	ORDER BY last LIMIT $5`)
)

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
		batches, err := tx.batches(selectBatchOn, tx.user, int64(tx.log.head), int64(base), int64(tx.log.floor()))
		for more := true; more; {
			for _, b := range batches {
				if !yield(b, nil) {
					return
				}
			}
			if err == nil {
				batches, err = tx.mergedOn(base, batches)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			more = len(batches) > 0
		}
	}
}

// mergedOn returns the merged batches on base that follow those read last.
func (tx *postgresTx) mergedOn(base mutlog.Timestamp, read []*mutlog.Batch) ([]*mutlog.Batch, error) {
	after := max(base, tx.log.floor())
	if len(read) > 0 {
		after = max(after, read[len(read)-1].Head())
	}
	return tx.batches(selectMergedOn, tx.user, int64(tx.log.head), int64(base), int64(after), mergedAtOnce)
}

// batches reads the batches that a statement made by batchesWith finds.
func (tx *postgresTx) batches(sql string, args ...any) (batches []*mutlog.Batch, err error) {
	err = tx.read(func() { batches = nil }, func(rows pgx.Rows) error {
		var b mutlog.Batch
		var client, key []byte
		var live *string
		e, err := scanEntry(rows, tx.user, (*int64)(&b.Previous), (*int64)(&b.Base), &client, &key, &live)
		if err != nil {
			return err
		}
		if n := len(batches); n == 0 || batches[n-1].Previous != b.Previous {
			b.Client, b.Key = string(client), string(key)
			if b.Live, err = decodeLive(live); err != nil {
				return err
			}
			batches = append(batches, &b)
		}
		last := batches[len(batches)-1]
		last.Entries = append(last.Entries, e)
		return nil
	}, sql, args...)
	return batches, err
}
