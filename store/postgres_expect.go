package store

import (
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// selectLogWith is selectLog with the newest mutations as of the head: one
// statement, and so one state. A log without any is a row without.
var selectLogWith = `SELECT l.head, l.revision, l.pruned, l.horizon, l.gaps, m.* FROM tidemark.logs AS l
LEFT JOIN LATERAL (` + newestAsOf("l.head") + `) AS m ON true WHERE l.user_id = $1`

// expected is what an update said that it would ask for, as it came with the head.
type expected struct {
	refs    []mutlog.Ref
	key     string
	newest  []*mutlog.Entry // of refs; nil if it is to be asked for
	batches []*mutlog.Batch // with key, of whatever states are gone or to come
	keyed   bool            // batches are all that there were of the state
}

// Expect implements mutlog.Expecter.
func (tx *postgresTx) Expect(refs []mutlog.Ref, key string) {
	tx.expected = expected{refs: refs, key: key}
}

// queueExpected queues what reads the log and what is expected of it. Whatever of
// that is damaged is left to be asked for, and complained of, in its turn.
func (tx *postgresTx) queueExpected(b *pgx.Batch) {
	e, names := &tx.expected, namesOf(tx.expected.refs)
	if len(names.places) == 0 {
		e.newest = make([]*mutlog.Entry, len(e.refs))
		tx.queueHead(b)
	} else {
		b.Queue(selectLogWith, tx.user, names.resources, names.ids).Query(func(rows pgx.Rows) error {
			tx.exists, tx.log = false, noLog
			e.newest = make([]*mutlog.Entry, len(e.refs))
			for rows.Next() {
				if err := tx.scanExpected(rows, names); err != nil {
					return err
				}
			}
			return rows.Err()
		})
	}
	if e.key == "" {
		return
	}
	b.Queue(selectBatchByKey, tx.user, int64(mutlog.MaxTimestamp), []byte(e.key), int64(mutlog.Beginning)).Query(func(rows pgx.Rows) (err error) {
		e.batches, err = scanBatches(rows, tx.user)
		if e.keyed = !errors.Is(err, mutlog.ErrCorrupt); e.keyed {
			return err
		}
		return nil
	})
	queueRevision(b, tx.user, func(revision int64, exists bool) error {
		e.keyed = e.keyed && exists && revision == tx.log.revision
		return nil
	})
}

// scanExpected reads a row of selectLogWith.
func (tx *postgresTx) scanExpected(rows pgx.Rows, names *refNames) error {
	var gaps []int64
	var i *int
	log := []any{(*int64)(&tx.log.head), &tx.log.revision, (*int64)(&tx.log.bounds.Pruned), (*int64)(&tx.log.bounds.Horizon), &gaps, &i}
	if err := rows.Scan(append(log, make([]any, 10)...)...); err != nil { // the columns of a mutation may be without one
		return err
	}
	tx.exists, tx.log.bounds.Gaps = true, gapsOf(gaps)
	if i == nil || tx.expected.newest == nil {
		return nil
	}
	entry, err := scanEntry(rows, tx.user, nil, nil, nil, nil, nil, nil)
	switch {
	case errors.Is(err, mutlog.ErrCorrupt):
		tx.expected.newest = nil
		return nil
	case err == nil && entry.Timestamp > tx.log.floor():
		tx.expected.newest[names.places[*i-1]] = &entry
	}
	return err
}

// knows tells whether the newest mutations of refs at some time came with the
// head, which is pinned.
func (e *expected) knows(refs []mutlog.Ref, at, head mutlog.Timestamp) bool {
	return e.newest != nil && at >= head && slices.Equal(refs, e.refs)
}

// batch returns the batch with the key in the log that is pinned, or nil. It
// belongs to the caller.
func (e *expected) batch(log *logRow) *mutlog.Batch {
	e.keyed = false
	for _, b := range e.batches {
		if log.floor() < b.Head() && b.Head() <= log.head {
			return b
		}
	}
	return nil
}
