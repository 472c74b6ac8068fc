package store

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
)

// The bucket "records" keeps what is no part of a log:
//
//	key                                      value
//	┌──────┬────┬───────┬────┬──────┐
//	│ kind │ 00 │ owner │ 00 │ name │        u32 CRC-32C of key and value, value
//	└──────┴────┴───────┴────┴──────┘
//
// A record is replaced by the committer, together with the batches of the same
// transaction, if it still has the value that the new one was made of.

// recordStep bounds how many bytes of records are read in one transaction, but
// for the last.
const recordStep = 256 << 10

const (
	maxRecordKey   = 2000
	maxRecordValue = 1 << 20
)

func recordKey(key mutlog.RecordKey) ([]byte, error) {
	size := len(key.Kind) + len(key.Owner) + len(key.Name)
	if key.Kind == "" || size > maxRecordKey || strings.ContainsRune(key.Kind+key.Owner, 0) {
		return nil, fmt.Errorf("%q is no key of a record", key)
	}
	return []byte(key.Kind + "\x00" + key.Owner + "\x00" + key.Name), nil
}

// decodeKept returns the record at k; it is the caller's.
func decodeKept(k, v []byte) (r mutlog.Record, err error) {
	parts := strings.SplitN(string(k), "\x00", 3)
	if len(parts) != 3 || !isSealed(k, v) {
		return r, fmt.Errorf("%w: the record at key %q", mutlog.ErrCorrupt, k)
	}
	r.RecordKey = mutlog.RecordKey{Kind: parts[0], Owner: parts[1], Name: parts[2]}
	r.Value = append([]byte{}, v[4:]...)
	return r, nil
}

// kept are the records that were asked for since one was last changed: the token
// of each request is one, and so is the mark that there is any.
type kept struct {
	mu      sync.RWMutex
	values  map[mutlog.RecordKey][]byte // nil for one that there is not
	changes int
}

const (
	maxKept      = 4096
	maxKeptValue = 1 << 10
)

// get returns a record, if it is known, in memory of the caller's, and else what
// put asks for.
func (k *kept) get(key mutlog.RecordKey) (value []byte, known bool, changes int) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	value, known = k.values[key]
	return bytes.Clone(value), known, k.changes
}

// put adds a record that was read after get, unless one was changed meanwhile.
func (k *kept) put(key mutlog.RecordKey, value []byte, changes int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.changes != changes || len(value) > maxKeptValue {
		return
	}
	if k.values == nil || len(k.values) >= maxKept { // of tokens that are made up, too
		k.values = map[mutlog.RecordKey][]byte{}
	}
	key.Kind, key.Owner, key.Name = strings.Clone(key.Kind), strings.Clone(key.Owner), strings.Clone(key.Name)
	k.values[key] = bytes.Clone(value)
}

// forget is for when records may have changed.
func (k *kept) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.values = nil
	k.changes++
}

// Record implements mutlog.Store.
func (s *Bolt) Record(ctx context.Context, key mutlog.RecordKey) (value []byte, err error) {
	value, known, changes := s.kept.get(key)
	if known && ctx.Err() == nil && !s.isFailed.Load() {
		return value, nil
	}
	if value, err = s.readRecord(ctx, key); err == nil {
		s.kept.put(key, value, changes)
	}
	return value, err
}

func (s *Bolt) readRecord(ctx context.Context, key mutlog.RecordKey) (value []byte, err error) {
	k, err := recordKey(key)
	if err != nil {
		return nil, err
	}
	err = s.view(ctx, prefix{}, func(tx *boltTx) error {
		v := tx.tx.Bucket(bucketRecords).Get(k)
		if v == nil {
			return nil
		}
		r, err := decodeKept(k, v)
		value = r.Value
		return err
	})
	return value, err
}

// UpdateRecord implements mutlog.Store.
func (s *Bolt) UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func([]byte) ([]byte, error)) error {
	k, err := recordKey(key)
	if err != nil {
		return err
	}
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
		r := recordWrite{k, old, value}
		if err := s.edit(ctx, edit{r.check, r.apply}); err != errRaced {
			return err
		}
	}
}

// recordWrite replaces the value of a record.
type recordWrite struct{ key, old, new []byte }

// check fails if the value is not the old one any more.
func (r *recordWrite) check(_ *Bolt, tx *bolt.Tx, _ *commit) error {
	now := tx.Bucket(bucketRecords).Get(r.key)
	if (now == nil) != (r.old == nil) || now != nil && !bytes.Equal(now[4:], r.old) {
		return errRaced
	}
	return nil
}

func (r *recordWrite) apply(_ *Bolt, tx *bolt.Tx, _ *commit) error {
	records := tx.Bucket(bucketRecords)
	if r.new == nil {
		return records.Delete(r.key)
	}
	return records.Put(r.key, sealed(r.key, append(make([]byte, 4, 4+len(r.new)), r.new...)))
}

// Records implements mutlog.Store.
func (s *Bolt) Records(ctx context.Context, kind, owner string) iter.Seq2[mutlog.Record, error] {
	start := ""
	if kind != "" {
		start = kind + "\x00"
	}
	if owner != "" {
		start += owner + "\x00"
	}
	return func(yield func(mutlog.Record, error) bool) {
		for from := []byte(start); from != nil; {
			records, next, err := s.readRecords(ctx, start, from)
			for _, r := range records {
				if !yield(r, nil) {
					return
				}
			}
			if err != nil {
				yield(mutlog.Record{}, err)
				return
			}
			from = next
		}
	}
}

// readRecords returns some records whose keys begin with start, from the key from
// on, and the key of the next; nil if there is none.
func (s *Bolt) readRecords(ctx context.Context, start string, from []byte) (records []mutlog.Record, next []byte, err error) {
	err = s.view(ctx, prefix{}, func(tx *boltTx) error {
		c, size := tx.tx.Bucket(bucketRecords).Cursor(), 0
		for k, v := c.Seek(from); k != nil && bytes.HasPrefix(k, []byte(start)); k, v = c.Next() {
			if size > recordStep {
				next = bytes.Clone(k)
				return nil
			}
			r, err := decodeKept(k, v)
			if err != nil {
				return err
			}
			records = append(records, r)
			size += len(k) + len(v)
		}
		return nil
	})
	return records, next, err
}
