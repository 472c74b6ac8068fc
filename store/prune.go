package store

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
)

// Pruning replaces the batches of a stretch of one log by new ones that hold
// what is left, in the group of the transaction that does it (group.go), which
// they share with what is pushed and pruned besides. What takes long, reading
// the stretch and encoding what is left, is done beside the committer; it then
// only sees whether the places are still those that were read.
//
// What is pruned is folded before, so that what lies behind "folded" when the
// store is opened and has no place is always recent.

// maxLeft and maxLeftBytes bound what one record holds of what pruning has left.
const (
	maxLeft      = 256
	maxLeftBytes = 64 << 10
)

// pruneWrite is the pruning of a stretch of one log, as it was read.
type pruneWrite struct {
	user     prefix
	old      []oldBatch
	receipts [][]byte // keys
	index    []indexed
	left     []leftBatch
}

// oldBatch is a batch that goes.
type oldBatch struct {
	first mutlog.Timestamp
	group uint64
	index int
	size  int
}

// leftBatch is a record of what is left, and its place but for the group.
type leftBatch struct {
	record []byte
	place  place
}

// indexed is a mutation of the stretch that the index may lead to.
type indexed struct {
	hash hash
	at   mutlog.Timestamp
	gone bool
}

// Prune implements mutlog.Tx.
func (tx *boltTx) Prune(after, until mutlog.Timestamp, keep []mutlog.Timestamp) error {
	bounds, err := tx.newBounds()
	if err != nil {
		return err
	}
	if until > bounds.Pruned {
		return fmt.Errorf("a log is pruned until %d, beyond its bounds, %d", until, bounds.Pruned)
	}
	p := &pruneWrite{user: tx.prefix}
	stretch, err := tx.stretch(after, until)
	if err != nil || len(stretch) == 0 {
		return err
	}
	left := &mutlog.Batch{}
	for i, pl := range stretch {
		r, err := tx.record(pl)
		if err != nil {
			return err
		}
		if i == 0 {
			left.Previous = r.previous
		}
		left.Live = r.live
		p.add(&r, pl, tx.group.size(pl.index))
		if err := p.keep(&r, keep, left); err != nil {
			return err
		}
	}
	p.encode(tx, left)
	tx.write.edits = append(tx.write.edits, edit{p.check, p.apply})
	return nil
}

// stretch returns the places of the batches that lie wholly behind after and not
// behind until.
func (tx *boltTx) stretch(after, until mutlog.Timestamp) (places []place, err error) {
	err = tx.walk(after, func(pl place) (bool, error) {
		if pl.head() > until {
			return false, nil
		}
		if pl.first > after {
			places = append(places, pl)
		}
		return true, nil
	})
	return places, err
}

// add notes that a batch goes, and its receipt.
func (p *pruneWrite) add(r *record, pl place, size int) {
	p.old = append(p.old, oldBatch{pl.first, pl.group, pl.index, size})
	switch {
	case r.pruned:
	case len(r.key) > 0:
		p.receipts = append(p.receipts, p.user.receiptKey(string(r.key)))
	case r.base != r.previous:
		p.receipts = append(p.receipts, p.user.mergedKey(r.base, r.first))
	}
}

// keep appends to left those entries of r whose timestamps are in keep.
func (p *pruneWrite) keep(r *record, keep []mutlog.Timestamp, left *mutlog.Batch) error {
	entries, err := r.borrowEntries(nil)
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, kept := slices.BinarySearch(keep, e.Timestamp)
		p.index = append(p.index, indexed{hashRef(e.Resource, e.ResourceID), e.Timestamp, !kept})
		if kept {
			left.Entries = append(left.Entries, e)
		}
	}
	return nil
}

// encode makes the records of what is left.
func (p *pruneWrite) encode(tx *boltTx, left *mutlog.Batch) {
	entries, previous := left.Entries, left.Previous
	for len(entries) > 0 {
		n, size := 0, 0
		for n < min(len(entries), maxLeft) && size < maxLeftBytes {
			size += len(entries[n].Data) + len(entries[n].State)
			n++
		}
		b := &mutlog.Batch{Base: previous, Previous: previous, Entries: entries[:n]}
		if entries = entries[n:]; len(entries) == 0 {
			b.Live = left.Live
		}
		record, tags := encodeRecord(tx.prefix, "", b, true, nil)
		p.left = append(p.left, leftBatch{record, place{first: b.First(), last: b.Head(), n: n, bounded: true, pruned: true, tags: tags}})
		previous = b.Head()
	}
}

// apply puts what is left in the place of the batches.
func (p *pruneWrite) apply(_ *Bolt, tx *bolt.Tx, c *commit) error {
	user := newBoltTx(tx, p.user, nil, nil)
	puts, settled, err := p.reindex(user)
	if err != nil {
		return err
	}
	logs := tx.Bucket(bucketLogs)
	for _, old := range p.old {
		if err := logs.Delete(p.user.key(kindBatch, old.first)); err != nil {
			return err
		}
		c.waste(old.group, old.size)
	}
	for _, k := range p.receipts {
		if err := logs.Delete(k); err != nil {
			return err
		}
	}
	c.dropped += len(p.old)
	for _, l := range p.left {
		l.place.settled = settled
		l.place.group, l.place.index = c.add(l.record)
		k := p.user.key(kindBatch, l.place.first)
		puts = append(puts, keyValue{key: k, value: encodePlace(k, &l.place)})
	}
	return putAll(logs, puts)
}

// check fails if the places are not those that were read, or not folded.
func (p *pruneWrite) check(s *Bolt, tx *bolt.Tx, _ *commit) error {
	logs := tx.Bucket(bucketLogs)
	for _, old := range p.old {
		if old.group > s.folded {
			return errUnfolded
		}
		k := p.user.key(kindBatch, old.first)
		v := logs.Get(k)
		if v == nil {
			return errRaced
		}
		if pl, err := decodePlace(k, v); err != nil {
			return err
		} else if pl.group != old.group || pl.index != old.index {
			return errRaced
		}
	}
	return nil
}

// reindex returns what takes out of the index what is dropped, and brings the
// index up to the end of the stretch if it is only up to a part of it; settled
// tells whether it then covers the stretch.
func (p *pruneWrite) reindex(user *boltTx) (puts []keyValue, settled bool, err error) {
	if err := user.readTail(); err != nil {
		return nil, false, err
	}
	slices.SortFunc(p.index, func(a, b indexed) int {
		return cmp.Or(bytes.Compare(a.hash[:], b.hash[:]), cmp.Compare(b.at, a.at))
	})
	for rest := p.index; len(rest) > 0; {
		c, err := user.chunkOf(rest[0].hash.bound())
		if err != nil {
			return nil, false, err
		}
		n := 0
		for n < len(rest) && rest[n].hash.bound() < c.upper {
			n++
		}
		if changed := c.changed(rest[:n], user.settled); len(changed) > 0 {
			puts = user.appendChunk(puts, c, changed)
		}
		rest = rest[n:]
	}
	return puts, user.settled != mutlog.Beginning, nil
}

// changed returns the entries of c that change, as the mutations of a stretch,
// in the order of hashes and from the newest, say; settled is up to where the
// index covers the log, or Beginning.
func (c *chunk) changed(stretch []indexed, settled mutlog.Timestamp) (changed []search) {
	for len(stretch) > 0 {
		n := 1
		for n < len(stretch) && stretch[n].hash == stretch[0].hash {
			n++
		}
		now := c.find(stretch[0].hash)
		want := now
		for _, m := range slices.Backward(stretch[:n]) {
			switch {
			case m.gone && m.at == now:
				want = mutlog.Beginning
			case !m.gone && settled != mutlog.Beginning && m.at > settled:
				want = m.at
			}
		}
		if want != now {
			changed = append(changed, search{hash: stretch[0].hash, found: want})
		}
		stretch = stretch[n:]
	}
	return changed
}
