package store

import (
	"bytes"
	"context"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
)

// Check implements mutlog.Store: the pages of bbolt, then every key and value.
// It holds one transaction open for as long as it takes, so it is meant for a
// store that is not being served.
func (s *Bolt) Check(ctx context.Context, report func(problem string)) error {
	tx, err := s.db.Begin(false)
	if err != nil {
		return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	defer tx.Rollback()
	for err := range tx.Check() {
		report("bbolt: " + err.Error())
	}
	c := &checker{logs: tx.Bucket(bucketLogs), report: report}
	cursor := c.logs.Cursor()
	for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		c.check(k, v)
	}
	return nil
}

// checker goes through all keys in order.
type checker struct {
	logs   *bolt.Bucket
	report func(string)

	tx      *boltTx // of the user whose keys are being read
	head    mutlog.Timestamp
	highest hash // in the index so far
}

func (c *checker) fault(format string, args ...any) {
	c.report(fmt.Sprintf("user %q: ", c.tx.name) + fmt.Sprintf(format, args...))
}

func (c *checker) check(k, v []byte) {
	if len(k) < keySize || k[prefixSize] > kindMerged {
		c.report(fmt.Sprintf("key %x is none of this format", k))
		return
	}
	if c.tx == nil || prefix(k[:prefixSize]) != c.tx.prefix {
		c.user(k, v)
	}
	switch k[prefixSize] {
	case kindBatch:
		c.batch(k, v)
	case kindIndex:
		c.chunk(k, v)
	case kindReceipt:
		c.receipt(k, v)
	case kindMerged:
		c.merged(k, v)
	}
}

// user begins the keys of a user, the first of which holds the name.
func (c *checker) user(k, v []byte) {
	c.tx = newBoltTx(c.logs, "")
	c.tx.prefix = prefix(k[:prefixSize])
	c.head, c.highest = mutlog.Beginning, hash{}
	name, err := decodeUser(k, v)
	if err != nil {
		c.report(err.Error())
		return
	}
	if c.tx.name = name; prefixOf(name) != c.tx.prefix {
		c.fault("the name stands under the key %x of another user", k)
	}
}

func (c *checker) batch(k, v []byte) {
	r, err := parseRecord(k, v)
	if err == nil {
		_, err = r.batch()
	}
	if err != nil {
		c.fault("%v", err)
		return
	}
	if r.previous != c.head {
		c.fault("batch %d follows %d, and not the head before it, %d", r.first, r.previous, c.head)
	}
	c.head = r.head()
}

func (c *checker) chunk(k, v []byte) {
	found, err := c.tx.chunkOf(keyNumber(k))
	if err != nil {
		c.fault("%v", err)
		return
	}
	for i := range found.len() {
		h, t := hash(found.hash(i)), found.timestamp(i)
		if bytes.Compare(h[:], c.highest[:]) <= 0 || h.bound() < found.lower || h.bound() >= found.upper {
			c.fault("the index at %x is out of order", k)
		}
		c.highest = h
		if e, err := c.tx.entry(t); err != nil {
			c.fault("the index at %x: %v", k, err)
		} else if hashRef(e.Resource, e.ResourceID) != h {
			c.fault("the index at %x leads to mutation %d, which is of another resource", k, t)
		}
	}
}

func (c *checker) receipt(k, v []byte) {
	first, err := decodeReceipt(k, v)
	if err != nil {
		c.fault("%v", err)
		return
	}
	r, err := c.tx.at(first)
	if err != nil {
		c.fault("a receipt: %v", err)
	} else if !bytes.Equal(c.tx.prefix.receiptKey(string(r.key)), k) {
		c.fault("the receipt at %x names batch %d, which has another Idempotency-Key", k, first)
	}
}

func (c *checker) merged(k, v []byte) {
	if len(k) != keySize+8 {
		c.fault("key %x is none of this format", k)
		return
	}
	base, first := keyNumber(k)-1, mergedBatch(k)
	r, err := c.tx.at(first)
	if err != nil {
		c.fault("a merged batch: %v", err)
	} else if r.first != first || r.base != base {
		c.fault("batch %d is listed as merged behind %d, but its base is %d", first, base, r.base)
	}
}
