package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
)

// Check implements mutlog.Store: the pages of bbolt, then every key and value.
// It holds one transaction open for as long as it takes, so it is meant for a
// store that is not being served.
//
// Some damage makes a goroutine of bbolt fault, which ends the process.
func (s *Bolt) Check(ctx context.Context, report func(problem string)) error {
	tx, err := s.db.Begin(false)
	if err != nil {
		return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	defer tx.Rollback()
	if err := checkPages(tx); err != nil {
		report("bbolt: " + err.Error())
		return nil
	}
	sound := true
	for err := range tx.Check() {
		sound = false
		report("bbolt: " + err.Error())
	}
	if !sound {
		return nil // what hangs on broken pages cannot be read
	}
	folded, err := readFolded(tx)
	if err != nil {
		report(err.Error())
		return nil
	}
	c := &checker{tx: tx, report: report, folded: folded}
	if err := c.groups(ctx); err != nil {
		return err
	}
	cursor := tx.Bucket(bucketLogs).Cursor()
	for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		c.key(k, v)
	}
	c.end()
	c.records()
	if _, err := readFences(tx); err != nil {
		report(err.Error())
	}
	if st, err := readState(tx); err != nil {
		report("the state: " + err.Error())
	} else if st.batches != c.batches {
		report(fmt.Sprintf("there are %d batches, and there should be %d", c.batches, st.batches))
	}
	return nil
}

// checkPages refuses what the check of bbolt does not see, or takes too long to:
// pages that say that they go on behind the end of the file, of which it would
// count all that they claim, and a list of free pages that names one in use.
// What is written next would panic, or take the place of data.
func checkPages(tx *bolt.Tx) error {
	free, listed := 0, 0
	for id := 0; ; {
		page, err := tx.Page(id)
		switch {
		case err != nil:
			return err
		case page == nil: // behind the last one
			if free != listed && listed < manyFree {
				return fmt.Errorf("%d pages are free, and %d are listed", free, listed)
			}
			return nil
		case page.Type == pageFree && id < 2:
			return fmt.Errorf("page %d: a meta page is listed as free", id)
		case page.Type == pageFree: // what it holds means nothing
			free++
			id++
			continue
		case page.Type == "freelist":
			listed = page.Count
		}
		if last, err := tx.Page(id + page.OverflowCount); err != nil || last == nil {
			return fmt.Errorf("page %d: it is said to have %d more pages, which is more than there are", id, page.OverflowCount)
		}
		for range page.OverflowCount {
			id++
			if next, err := tx.Page(id); err != nil || next.Type == pageFree {
				return fmt.Errorf("page %d: it is said to go on in page %d, which is free", page.ID, id)
			}
		}
		id++
	}
}

const (
	pageFree = "free" // the type of a page that is listed as free

	// manyFree is the most that a page of free pages has room for in its count;
	// at this many it stands elsewhere.
	manyFree = 0xFFFF
)

// checker goes through all groups and then all keys of logs, in order.
type checker struct {
	tx     *bolt.Tx
	report func(string)

	folded  uint64 // the last group that is
	batches uint64 // so far

	user    *boltTx // whose keys are being read
	about   *about
	last    place // the one read last
	head    mutlog.Timestamp
	highest hash // in the index so far
}

func (c *checker) fault(format string, args ...any) {
	c.report(fmt.Sprintf("user %q: ", c.user.name) + fmt.Sprintf(format, args...))
}

// groups checks every batch, and that the place of each that is folded leads
// to it.
func (c *checker) groups(ctx context.Context) error {
	groups := c.tx.Bucket(bucketGroups)
	cursor := groups.Cursor()
	last := uint64(0)
	for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
		if err := ctx.Err(); err != nil {
			return err
		}
		if len(k) != 8 || v != nil {
			c.report(fmt.Sprintf("key %x of groups is none of this format", k))
			continue
		}
		last = binary.BigEndian.Uint64(k)
		g, err := readGroup(groups, last)
		if err != nil {
			c.report(err.Error())
			continue
		}
		garbage := 0
		for i := range g.len() {
			live, err := c.batch(&g, i)
			if err != nil {
				c.report(fmt.Sprintf("group %d: %v", last, err))
			}
			if live {
				c.batches++
			} else {
				garbage += g.size(i)
			}
		}
		c.garbage(&g, garbage)
	}
	return nil
}

// batch checks the batch at index; live tells whether a place leads to it, or
// none has to, because it is recent.
func (c *checker) batch(g *group, index int) (live bool, err error) {
	r, err := g.record(index)
	if err != nil {
		return false, err
	}
	if _, err = r.batch(); err != nil {
		return false, err
	}
	k := r.user.key(kindBatch, r.first)
	v := c.tx.Bucket(bucketLogs).Get(k)
	if v == nil && g.number > c.folded {
		return true, nil
	}
	if v != nil {
		pl, err := decodePlace(k, v)
		if err != nil || pl.group == g.number && pl.index == index {
			return true, err
		}
	}
	if g.number > c.folded {
		err = fmt.Errorf("batch %d is newer than what is folded, and no place leads to it", r.first)
	}
	return false, err
}

// garbage checks what is said of the garbage of a group.
func (c *checker) garbage(g *group, garbage int) {
	k := groupKey(g.number)
	v := c.tx.Bucket(bucketGarbage).Get(k)
	if v == nil && garbage == 0 {
		return
	}
	said, total, err := decodeGarbage(k, v)
	if err == nil && (said != garbage || total != len(g.batches)) {
		err = fmt.Errorf("group %d has %d bytes of garbage in %d, and should have %d in %d", g.number, garbage, len(g.batches), said, total)
	}
	if err != nil {
		c.report(err.Error())
	}
}

func (c *checker) key(k, v []byte) {
	if len(k) < keySize || k[prefixSize] > kindMerged {
		c.report(fmt.Sprintf("key %x is none of this format", k))
		return
	}
	if c.user == nil || prefix(k[:prefixSize]) != c.user.prefix {
		c.end()
		c.begin(k, v)
	}
	switch k[prefixSize] {
	case kindBatch:
		c.place(k, v)
	case kindIndex:
		c.chunk(k, v)
	case kindReceipt:
		c.receipt(k, v)
	case kindMerged:
		c.merged(k, v)
	}
}

// begin begins the keys of a user, the first of which holds the name.
func (c *checker) begin(k, v []byte) {
	c.user = newBoltTx(c.tx, prefix(k[:prefixSize]), nil, nil)
	c.about, c.head, c.highest, c.last = nil, mutlog.Beginning, hash{}, place{}
	var err error
	if c.about, err = decodeAbout(k, v); err != nil {
		c.report(err.Error())
		return
	}
	if c.user.name = c.about.name; c.user.name != "" && prefixOf(c.user.name) != c.user.prefix {
		c.fault("the name stands under the key %x of another user", k)
	}
}

// end ends the keys of a user.
func (c *checker) end() {
	if c.user == nil || c.about == nil {
		return
	}
	if (c.about.name != "") != (c.last.n > 0) {
		c.fault("there is a name, and no log, or the other way round, under the keys %x", c.user.prefix)
	}
	bounded := c.about.fences > 0 || !sameBounds(c.about.Bounds, mutlog.NoBounds)
	if c.last.n > 0 && bounded && !c.last.bounded {
		c.fault("the place of its last batch, %d, does not tell of its bounds", c.last.first)
	}
}

// records checks what is kept beside the logs.
func (c *checker) records() {
	cursor := c.tx.Bucket(bucketRecords).Cursor()
	for k, v := cursor.First(); k != nil; k, v = cursor.Next() {
		if _, err := decodeKept(k, v); err != nil {
			c.report(err.Error())
		}
	}
}

func (c *checker) place(k, v []byte) {
	pl, err := decodePlace(k, v)
	var r record
	if err == nil {
		r, err = c.user.record(pl)
	}
	if err != nil {
		c.fault("%v", err)
		return
	}
	if !bytes.Equal(r.tags, pl.tags) {
		c.fault("the tags of the place of batch %d are not its own", r.first)
	}
	if r.previous < c.head || r.previous > c.head && (c.about == nil || r.previous > c.about.Pruned) {
		c.fault("batch %d follows %d, and not the head before it, %d", r.first, r.previous, c.head)
	}
	c.head, c.last = pl.head(), pl
}

func (c *checker) chunk(k, v []byte) {
	found, err := c.user.chunkOf(keyNumber(k))
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
		if e, err := c.user.entry(t); err != nil {
			c.fault("the index at %x: %v", k, err)
		} else if e == nil {
			c.fault("the index at %x leads to mutation %d, which was dropped", k, t)
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
	r, err := c.user.holding(first)
	if err != nil {
		c.fault("a receipt: %v", err)
	} else if !bytes.Equal(c.user.prefix.receiptKey(string(r.key)), k) {
		c.fault("the receipt at %x names batch %d, which has another Idempotency-Key", k, first)
	}
}

func (c *checker) merged(k, v []byte) {
	if len(k) != keySize+8 {
		c.fault("key %x is none of this format", k)
		return
	}
	base, first := keyNumber(k)-1, mergedBatch(k)
	r, err := c.user.holding(first)
	if err != nil {
		c.fault("a merged batch: %v", err)
	} else if r.first != first || r.base != base {
		c.fault("batch %d is listed as merged behind %d, but its base is %d", first, base, r.base)
	}
}
