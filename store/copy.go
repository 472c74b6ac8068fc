package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Summary says what a store holds.
type Summary struct {
	ID      string // of the store: a ULID
	Format  int
	Batches uint64
	Bytes   int64 // of its pages, used and free
}

// Summary returns what the store holds.
func (s *Bolt) Summary() (sum Summary, err error) {
	return sum, s.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		st, err := readState(tx)
		if err != nil {
			return err
		}
		sum = Summary{ID: string(meta.Get(metaID)), Batches: st.batches, Bytes: tx.Size()}
		_, err = fmt.Sscan(string(meta.Get(metaFormat)), &sum.Format)
		return err
	})
}

// Compact writes what the store holds, key by key and without its free pages,
// to a new file at path, durably. It is for a store that nobody writes to.
// progress is told how many bytes of how many have been read at most: free
// pages are not read.
//
// Nothing may be at path; what is there after an error is to be removed.
func (s *Bolt) Compact(ctx context.Context, path string, progress func(done, total int64)) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.catchFault(&err)
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s exists", path)
	}
	to, err := bolt.Open(path, 0o600, &bolt.Options{
		NoSync:       true, // but once for each transaction: nobody reads it before the end
		FreelistType: bolt.FreelistMapType,
		NoStatistics: true,
	})
	if err != nil {
		return err
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		c := &compaction{ctx: ctx, to: to, total: tx.Size(), progress: progress}
		return c.run(tx)
	})
	return errors.Join(err, to.Close())
}

// compaction is a copy under way, in many transactions of what is copied to.
type compaction struct {
	ctx      context.Context
	to       *bolt.DB
	progress func(done, total int64)
	done     int64
	total    int64

	tx     *bolt.Tx
	bucket *bolt.Bucket // that of the path copied last; nil in a new transaction
	size   int          // put into tx
}

// compactBytes is about how much one transaction copies, and a sync writes.
const compactBytes = 4 << 20

func (c *compaction) run(from *bolt.Tx) (err error) {
	if c.tx, err = c.to.Begin(true); err != nil {
		return err
	}
	defer func() { c.tx.Rollback() }() // which does nothing after a commit
	err = from.ForEach(func(name []byte, b *bolt.Bucket) error {
		if _, err := c.tx.CreateBucket(name); err != nil {
			return err
		}
		return c.copyBucket([][]byte{name}, b)
	})
	if err != nil {
		return err
	}
	st, err := readState(from)
	if err != nil {
		return err
	}
	for range 2 { // closed, in both meta pages: see meta.go
		st.transaction, st.clean = c.tx.ID(), true
		if err := st.write(c.tx); err != nil {
			return err
		}
		if err := c.begin(); err != nil {
			return err
		}
	}
	return nil
}

// copyBucket copies all that is in the bucket at path, which exists.
func (c *compaction) copyBucket(path [][]byte, from *bolt.Bucket) error {
	c.bucket = nil
	return from.ForEach(func(k, v []byte) error {
		if err := c.make(path, len(k)+len(v)); err != nil {
			return err
		}
		if v != nil {
			return c.bucket.Put(k, v)
		}
		if _, err := c.bucket.CreateBucket(k); err != nil {
			return err
		}
		err := c.copyBucket(append(slices.Clone(path), k), from.Bucket(k))
		c.bucket = nil
		return err
	})
}

// make makes ready for n bytes more in the bucket at path.
func (c *compaction) make(path [][]byte, n int) (err error) {
	if c.size > 0 && c.size+n > compactBytes {
		if err := c.begin(); err != nil {
			return err
		}
	}
	c.size += n
	c.done += int64(n)
	if c.bucket != nil {
		return nil
	}
	c.bucket = c.tx.Bucket(path[0])
	for _, name := range path[1:] {
		c.bucket = c.bucket.Bucket(name)
	}
	c.bucket.FillPercent = 0.95 // keys come in order; logs will take some between them
	return nil
}

// begin ends the transaction and begins the next.
func (c *compaction) begin() (err error) {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	// What a sync has to write before it, a sync of a store in service waits for.
	if err := errors.Join(c.tx.Commit(), c.to.Sync()); err != nil {
		return err
	}
	if c.progress != nil {
		c.progress(min(c.done, c.total), c.total)
	}
	c.size, c.bucket = 0, nil
	c.tx, err = c.to.Begin(true)
	return err
}
