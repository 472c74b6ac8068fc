package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// postgresTx is one state of the log of one user, and what is to be made of it.
type postgresTx struct {
	s    *Postgres
	ctx  context.Context
	user []byte
	conn *lease // once it is needed

	pinned bool // the following are known
	exists bool // there is a row
	absent bool // there is none, and its gaps are known
	log    logRow

	expected expected // what came with it

	bounds *mutlog.Bounds // to be set
	batch  *mutlog.Batch  // to be appended
	prune  *pruning       // to be done
}

// logRow is a row of the table logs.
type logRow struct {
	head     mutlog.Timestamp
	revision int64
	bounds   mutlog.Bounds
}

// floor is the end of what an erasure may still have to remove, which is none of
// the log any more; or Beginning.
func (log *logRow) floor() mutlog.Timestamp {
	floor := mutlog.Beginning
	for _, g := range log.bounds.Gaps {
		if g.After == mutlog.Beginning {
			floor = max(floor, g.Until)
		}
	}
	return floor
}

func (s *Postgres) begin(ctx context.Context, user mutlog.User) (*postgresTx, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.closed.Load() {
		return nil, errClosed
	}
	return &postgresTx{s: s, ctx: ctx, user: []byte(user)}, nil
}

// release gives the connection back.
func (tx *postgresTx) release() {
	if tx.conn != nil {
		tx.conn.Release()
	}
}

// send sends statements on the connection of tx.
func (tx *postgresTx) send(b *pgx.Batch) (err error) {
	if tx.conn == nil {
		if tx.conn, err = tx.s.acquire(tx.ctx); err != nil {
			return err
		}
	}
	return tx.s.send(tx.ctx, tx.conn, b)
}

const selectLog = `SELECT head, revision, pruned, horizon, gaps FROM tidemark.logs WHERE user_id = $1`

// pin finds out which state of the log tx is about.
func (tx *postgresTx) pin() error {
	if tx.pinned {
		return nil
	}
	b := &pgx.Batch{}
	if tx.expected.refs != nil || tx.expected.key != "" {
		tx.queueExpected(b)
	} else {
		tx.queueHead(b)
	}
	if err := tx.send(b); err != nil {
		return err
	}
	tx.pinned = true
	return nil
}

// queueHead queues what reads the log.
func (tx *postgresTx) queueHead(b *pgx.Batch) {
	b.Queue(selectLog, tx.user).QueryRow(func(row pgx.Row) (err error) {
		tx.exists, tx.log, err = scanLog(row)
		return err
	})
}

// noLog is what the absence of a row means.
var noLog = logRow{head: mutlog.Beginning, bounds: mutlog.NoBounds}

// scanLog reads a row of the table logs, or its absence.
func scanLog(row pgx.Row) (exists bool, log logRow, err error) {
	var gaps []int64
	err = row.Scan((*int64)(&log.head), &log.revision, (*int64)(&log.bounds.Pruned), (*int64)(&log.bounds.Horizon), &gaps)
	if errors.Is(err, pgx.ErrNoRows) {
		return false, noLog, nil
	}
	log.bounds.Gaps = gapsOf(gaps)
	return err == nil, log, err
}

// read runs a statement on the pinned state and calls scan with each row, after
// reset, because what the database gave up is tried again. The revision comes along: it
// tells whether the state was still there.
func (tx *postgresTx) read(reset func(), scan func(pgx.Rows) error, sql string, args ...any) error {
	b := &pgx.Batch{}
	b.Queue(sql, args...).Query(func(rows pgx.Rows) error {
		reset()
		for rows.Next() {
			if err := scan(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	})
	queueRevision(b, tx.user, func(revision int64, exists bool) error {
		if !exists || revision != tx.log.revision {
			return errRaced
		}
		return nil
	})
	return tx.send(b)
}

// queueRevision queues what reads the revision of a log, if there is one.
func queueRevision(b *pgx.Batch, user []byte, fn func(revision int64, exists bool) error) {
	b.Queue(`SELECT revision FROM tidemark.logs WHERE user_id = $1`, user).QueryRow(func(row pgx.Row) error {
		var revision int64
		err := row.Scan(&revision)
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return fn(revision, err == nil)
	})
}

// Head implements mutlog.Reader.
func (tx *postgresTx) Head() (mutlog.Timestamp, error) {
	err := tx.pin()
	return tx.log.head, err
}
