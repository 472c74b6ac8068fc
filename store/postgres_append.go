package store

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"tidemark/mutlog"
)

// The statements that append a batch. The first is the compare-and-set on the head:
// of any number that expect the same head and revision, the database lets one
// find its row as expected; the others wait for the row and then find none. All
// that follows hangs on the head that it has set, so that it comes to nothing
// where the first did. (If a rival set the very same head, its batch has the
// primary key of ours.)
//
// So they need not wait for each other's results: they are sent as one, with BEGIN and
// COMMIT, and cost one round trip. BEGIN and COMMIT are explicit because not
// every engine takes the statements of a pipeline as one transaction without.
const (
	beginWrite = `BEGIN ISOLATION LEVEL READ COMMITTED`

	moveHead = `UPDATE tidemark.logs SET head = $3 WHERE user_id = $1 AND head = $2 AND revision = $4`

	setLog = `UPDATE tidemark.logs SET head = $3, revision = revision + 1, pruned = $5, horizon = $6, gaps = $7
WHERE user_id = $1 AND head = $2 AND revision = $4`

	startLog = `INSERT INTO tidemark.logs (user_id, head, revision, pruned, horizon, gaps)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (user_id) DO NOTHING`

	insertBatch = `INSERT INTO tidemark.batches (user_id, previous, first, last, base, client, key, receipt, mutations, bytes, live)
SELECT l.user_id, $4::bigint, $5::bigint, l.head, $6::bigint, $7::bytea, $8::bytea, $9::boolean, $10::integer, $11::bigint, $12::text
FROM tidemark.logs AS l WHERE l.user_id = $1 AND l.head = $2 AND l.revision = $3`

	insertMutations = `INSERT INTO tidemark.mutations (user_id, at, type, resource, resource_id, assigned, data, state, prev, born, crc)
SELECT l.user_id, m.* FROM tidemark.logs AS l, unnest($4::bigint[], $5::text[], $6::text[], $7::text[], $8::boolean[],
	$9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::bigint[]) AS m
WHERE l.user_id = $1 AND l.head = $2 AND l.revision = $3`
)

// Append implements mutlog.Tx.
func (tx *postgresTx) Append(b *mutlog.Batch) error {
	if err := tx.pin(); err != nil {
		return err
	}
	if copied := tx.log.head < b.Previous && b.Previous <= tx.pruned(); b.Previous != tx.log.head && !copied { // it would be raced for ever
		return fmt.Errorf("a batch that follows %d was appended to a log whose head is %d", b.Previous, tx.log.head)
	}
	tx.batch = b
	return nil
}

// pruned is up to where there are no receipts, once tx is applied.
func (tx *postgresTx) pruned() mutlog.Timestamp {
	if tx.bounds != nil {
		return tx.bounds.Pruned
	}
	return tx.log.bounds.Pruned
}

// apply makes durable what fn has left to be; errRaced if the log has moved on.
func (tx *postgresTx) apply() error {
	switch {
	case tx.prune != nil:
		return tx.applyPrune()
	case tx.batch == nil && tx.bounds == nil:
		return nil
	}
	after := tx.log
	if tx.bounds != nil {
		after.bounds = *tx.bounds
	} else if !tx.exists {
		var err error
		if after.bounds, err = tx.Bounds(); err != nil {
			return err
		}
	}
	b := &pgx.Batch{}
	b.Queue(beginWrite)
	raced := false
	tx.queueLog(b, &after).Exec(func(tag pgconn.CommandTag) error {
		raced = tag.RowsAffected() == 0
		return nil
	})
	if tx.batch != nil {
		if err := tx.queueBatch(b, &after); err != nil {
			return err
		}
	}
	b.Queue(`COMMIT`)
	err := tx.commit(b)
	if err == nil && raced {
		return errRaced
	}
	if err = tx.applied(err, tx.s.commitFailure); err != nil {
		return err
	}
	if tx.batch != nil {
		tx.s.announce(mutlog.User(tx.user), after.head)
	}
	return nil
}

// queueLog queues the compare-and-set, and sets in after what it will be.
func (tx *postgresTx) queueLog(b *pgx.Batch, after *logRow) *pgx.QueuedQuery {
	if tx.batch != nil {
		after.head = tx.batch.Head()
	}
	if tx.exists && tx.bounds == nil {
		return b.Queue(moveHead, tx.user, int64(tx.log.head), int64(after.head), tx.log.revision)
	}
	bounds := []any{int64(after.bounds.Pruned), int64(after.bounds.Horizon), gapArray(after.bounds.Gaps)}
	if tx.exists {
		after.revision++
		return b.Queue(setLog, append([]any{tx.user, int64(tx.log.head), int64(after.head), tx.log.revision}, bounds...)...)
	}
	after.revision = rand.Int64N(1 << 62) // another than that of an erased log, which somebody may still be about to change
	return b.Queue(startLog, append([]any{tx.user, int64(after.head), after.revision}, bounds...)...)
}

// queueBatch queues what hangs on the log being as after says.
func (tx *postgresTx) queueBatch(b *pgx.Batch, after *logRow) error {
	live, err := encodeLive(tx.batch.Live)
	if err != nil {
		return err
	}
	var key []byte
	if tx.batch.Key != "" {
		key = []byte(tx.batch.Key)
	}
	c := columnsOf(tx.user, tx.batch.Entries)
	b.Queue(insertBatch, tx.user, int64(after.head), after.revision, int64(tx.batch.Previous), int64(tx.batch.First()),
		int64(tx.batch.Base), []byte(tx.batch.Client), key, tx.batch.Head() > tx.pruned(), len(c.at), c.bytes, live)
	b.Queue(insertMutations, tx.user, int64(after.head), after.revision,
		c.at, c.types, c.resources, c.ids, c.assigned, c.data, c.state, c.prev, c.born, c.crc)
	return nil
}

// commit sends a whole transaction, and ends it where it failed.
func (tx *postgresTx) commit(b *pgx.Batch) error {
	err := tx.s.exchange(tx.ctx, tx.conn, b)
	if conn := tx.conn.Conn(); err != nil && !conn.IsClosed() && conn.PgConn().TxStatus() != 'I' {
		ctx, cancel := context.WithTimeout(context.Background(), tx.s.timeout)
		defer cancel()
		conn.Exec(ctx, `ROLLBACK`) // if it fails, the pool closes the connection
	}
	return err
}
