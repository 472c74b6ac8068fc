package store

import (
	"context"
	"crypto/sha256"
	"slices"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// Bounds implements mutlog.Reader. They come with the head; only for a log that
// does not exist, it takes a round trip to look for what was erased of it, and
// for fences.
func (tx *postgresTx) Bounds() (mutlog.Bounds, error) {
	if err := tx.pin(); err != nil {
		return mutlog.NoBounds, err
	}
	if !tx.exists && !tx.absent {
		if err := tx.readAbsent(); err != nil {
			return mutlog.NoBounds, err
		}
	}
	bounds := tx.log.bounds
	bounds.Gaps = slices.Clone(bounds.Gaps)
	return bounds, nil
}

// readAbsent reads the gaps of a log that does not exist: that of its erasure,
// and then the later fences.
func (tx *postgresTx) readAbsent() error {
	const sql = `SELECT until FROM tidemark.gaps WHERE user_id = $1 ORDER BY until`
	var erased, fences []int64
	b := &pgx.Batch{}
	b.Queue(sql, nameHash(tx.user)).Query(collectInto(&erased))
	b.Queue(sql, everyone).Query(collectInto(&fences))
	if err := tx.send(b); err != nil {
		return err
	}
	newest := int64(mutlog.Beginning)
	for _, until := range slices.Concat(erased[max(0, len(erased)-1):], fences) { // an erasure includes those before it
		if until > newest {
			tx.log.bounds.Gaps = append(tx.log.bounds.Gaps, mutlog.Gap{After: mutlog.Beginning, Until: mutlog.Timestamp(until)})
			newest = until
		}
	}
	tx.absent = true
	return nil
}

// collectInto returns what reads one column of numbers.
func collectInto(numbers *[]int64) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*numbers, err = pgx.CollectRows(rows, pgx.RowTo[int64])
		return err
	}
}

// everyone is the user_id of fences in the table gaps.
var everyone = []byte{}

// nameHash is what is kept of the name of a user who was erased.
func nameHash(user []byte) []byte {
	sum := sha256.Sum256(user)
	return sum[:]
}

// SetBounds implements mutlog.Tx.
func (tx *postgresTx) SetBounds(bounds mutlog.Bounds) error {
	if err := tx.pin(); err != nil {
		return err
	}
	bounds.Gaps = slices.Clone(bounds.Gaps)
	tx.bounds = &bounds
	return nil
}

// Fence implements mutlog.Store. First comes what counts for logs that begin later,
// then the logs there are, in steps. Interrupted, it is to be called again with
// the same time: nothing is done twice. Nobody should push meanwhile: a log
// that a push brings past at before its turn has no gap.
func (s *Postgres) Fence(ctx context.Context, at mutlog.Timestamp) error {
	if _, err := s.exec(ctx, `INSERT INTO tidemark.gaps (user_id, until) VALUES ($1, $2) ON CONFLICT DO NOTHING`, everyone, int64(at)); err != nil {
		return err
	}
	return s.eachStep(ctx, func(logs []userHead) error {
		_, err := s.exec(ctx, `UPDATE tidemark.logs SET gaps = gaps || ARRAY[head, $3], revision = revision + 1
WHERE user_id >= $1 AND user_id <= $2 AND head < $3 AND NOT $3 = ANY (gaps)`, logs[0].user, logs[len(logs)-1].user, int64(at))
		return err
	})
}

// gapArray is the column gaps.
func gapArray(gaps []mutlog.Gap) []int64 {
	array := make([]int64, 0, 2*len(gaps))
	for _, g := range gaps {
		array = append(array, int64(g.After), int64(g.Until))
	}
	return array
}

func gapsOf(array []int64) (gaps []mutlog.Gap) {
	for i := 0; i+1 < len(array); i += 2 {
		gaps = append(gaps, mutlog.Gap{After: mutlog.Timestamp(array[i]), Until: mutlog.Timestamp(array[i+1])})
	}
	return gaps
}
