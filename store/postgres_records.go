package store

import (
	"bytes"
	"context"
	"fmt"
	"iter"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// Record implements mutlog.Store.
func (s *Postgres) Record(ctx context.Context, key mutlog.RecordKey) ([]byte, error) {
	if _, err := recordKey(key); err != nil {
		return nil, err
	}
	values, err := collect(ctx, s, pgx.RowTo[[]byte], `SELECT value FROM tidemark.records WHERE user_id = $1 AND kind = $2 AND name = $3`,
		[]byte(key.Owner), []byte(key.Kind), []byte(key.Name))
	if err != nil || len(values) == 0 {
		return nil, err
	}
	return values[0], nil
}

// UpdateRecord implements mutlog.Store. The value itself is compared and set.
func (s *Postgres) UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func([]byte) ([]byte, error)) error {
	wait := backoff{}
	for {
		old, err := s.Record(ctx, key)
		if err != nil {
			return err
		}
		value, err := fn(bytes.Clone(old))
		switch {
		case err != nil:
			return err
		case len(value) > maxRecordValue:
			return fmt.Errorf("a record of %d bytes is larger than %d", len(value), maxRecordValue)
		}
		if done, err := s.replaceRecord(ctx, key, old, value); done || err != nil {
			return err
		}
		if err := wait.next(ctx); err != nil {
			return err
		}
	}
}

// replaceRecord replaces the value of a record, if it is still old; nil means
// that there is none.
func (s *Postgres) replaceRecord(ctx context.Context, key mutlog.RecordKey, old, value []byte) (done bool, err error) {
	sql, args := ``, []any{[]byte(key.Owner), []byte(key.Kind), []byte(key.Name)}
	switch {
	case old == nil && value == nil:
		return true, nil
	case old == nil:
		sql, args = `INSERT INTO tidemark.records (user_id, kind, name, value) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`, append(args, value)
	case value == nil:
		sql, args = `DELETE FROM tidemark.records WHERE user_id = $1 AND kind = $2 AND name = $3 AND value = $4`, append(args, old)
	default:
		sql, args = `UPDATE tidemark.records SET value = $5 WHERE user_id = $1 AND kind = $2 AND name = $3 AND value = $4`, append(args, old, value)
	}
	n, err := s.exec(ctx, sql, args...)
	return n == 1, err
}

// selectRecords returns the statement that reads the records of the kind $1 that
// a condition finds, in order, as long as the ones before have less than $5
// bytes.
func selectRecords(condition string) string {
	return `SELECT r.user_id, r.name, r.value FROM (
	SELECT *, sum(octet_length(value)) OVER (ORDER BY user_id, name ROWS UNBOUNDED PRECEDING) - octet_length(value) AS earlier
	FROM tidemark.records WHERE kind = $1 AND ` + condition + ` ORDER BY user_id, name LIMIT 1000
) AS r WHERE r.earlier < $5 ORDER BY r.user_id, r.name`
}

// Those behind the owner $2 and name $3, or from there on if $4.
var (
	selectRecordsOfAll = selectRecords(`user_id >= $2 AND ((user_id, name) > ($2, $3) OR $4)`)
	selectRecordsOfOne = selectRecords(`user_id = $2 AND (name > $3 OR $4)`)
)

// Records implements mutlog.Store.
func (s *Postgres) Records(ctx context.Context, kind, owner string) iter.Seq2[mutlog.Record, error] {
	return func(yield func(mutlog.Record, error) bool) {
		kinds, err := s.kinds(ctx, kind, owner)
		if err != nil {
			yield(mutlog.Record{}, err)
			return
		}
		for _, kind := range kinds {
			for r, err := range s.recordsOf(ctx, kind, owner) {
				if !yield(r, err) || err != nil {
					return
				}
			}
		}
	}
}

// kinds returns the kinds to yield: the one that was asked for, or all.
func (s *Postgres) kinds(ctx context.Context, kind, owner string) ([]string, error) {
	if kind != "" {
		return []string{kind}, nil
	}
	kinds, err := collect(ctx, s, pgx.RowTo[[]byte], `SELECT DISTINCT kind FROM tidemark.records WHERE user_id = $1 OR $2 ORDER BY kind`, []byte(owner), owner == "")
	names := make([]string, len(kinds))
	for i := range kinds {
		names[i] = string(kinds[i])
	}
	return names, err
}

// recordsOf yields the records of one kind.
func (s *Postgres) recordsOf(ctx context.Context, kind, owner string) iter.Seq2[mutlog.Record, error] {
	sql, after, first := selectRecordsOfOne, mutlog.RecordKey{Owner: owner}, true
	if owner == "" {
		sql = selectRecordsOfAll
	}
	scan := func(row pgx.CollectableRow) (r mutlog.Record, err error) {
		var owner, name []byte
		err = row.Scan(&owner, &name, &r.Value)
		r.RecordKey = mutlog.RecordKey{Kind: kind, Owner: string(owner), Name: string(name)}
		return r, err
	}
	return func(yield func(mutlog.Record, error) bool) {
		for more := true; more; first = false {
			records, err := collect(ctx, s, scan, sql, []byte(kind), []byte(after.Owner), []byte(after.Name), first, recordStep)
			for _, r := range records {
				if after = r.RecordKey; !yield(r, nil) {
					return
				}
			}
			if err != nil {
				yield(mutlog.Record{}, err)
			}
			more = err == nil && len(records) > 0
		}
	}
}
