package store

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"slices"
	"sync"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
)

// boltTx reads the log of one user: the places in the bucket "logs" and the recent
// ones behind those, which together are one state of the log.
type boltTx struct {
	tx     *bolt.Tx
	prefix prefix
	cursor *bolt.Cursor // over the bucket "logs"
	write  *write       // what is to be appended; nil in a View
	known  *hashes      // of what was searched for last, in an Update
	name   mutlog.User  // in an Update

	// The recent places, until folded says where the folded ones end those
	// that are folded, too.
	sealed, active []place
	ready          bool
	folded         place // the last one
	hasFolded      bool
	bounded        bool // key 00 has bounds

	fences []fence

	commit  *commit      // in whose transaction it reads; nil in a snapshot
	groups  *bolt.Bucket // once it is needed
	group   group        // the one read last
	scratch *scratch

	tail     []place // see readTail
	tailRead bool
	settled  mutlog.Timestamp // up to where the index covers the log
}

// newBoltTx returns a reader of the log of the user p. The recent places must
// have been taken before tx was begun.
func newBoltTx(tx *bolt.Tx, p prefix, sealed, active []place) *boltTx {
	return &boltTx{tx: tx, prefix: p, cursor: tx.Bucket(bucketLogs).Cursor(), sealed: sealed, active: active}
}

// begin finds the last folded place and leaves out the recent ones up to it.
func (tx *boltTx) begin() (err error) {
	if tx.ready {
		return nil
	}
	k, v := tx.seekBefore(tx.prefix.key(kindBatch+1, 0))
	if tx.folded, tx.hasFolded, err = tx.place(k, v); err != nil {
		return err
	}
	tx.bounded = tx.folded.bounded || tx.prefix.has(k, kindUser)
	if tx.hasFolded {
		tx.sealed, tx.active = behind(tx.sealed, tx.folded.first), behind(tx.active, tx.folded.first)
	}
	tx.ready = true
	return nil
}

// seekBefore moves the cursor to the last key before k.
func (tx *boltTx) seekBefore(k []byte) (key, value []byte) {
	if found, _ := tx.cursor.Seek(k); found == nil {
		return tx.cursor.Last()
	}
	return tx.cursor.Prev()
}

// place reads the place at k; ok is false if k is none of this user.
func (tx *boltTx) place(k, v []byte) (pl place, ok bool, err error) {
	if !tx.prefix.has(k, kindBatch) {
		return place{}, false, nil
	}
	pl, err = decodePlace(k, v)
	return pl, err == nil, err
}

// last returns the place of the newest batch; ok is false if there is none.
func (tx *boltTx) last() (pl place, ok bool, err error) {
	if err := tx.begin(); err != nil {
		return place{}, false, err
	}
	for _, recent := range [][]place{tx.active, tx.sealed} {
		if n := len(recent); n > 0 {
			return recent[n-1], true, nil
		}
	}
	return tx.folded, tx.hasFolded, nil
}

// walk calls fn with the places of batches in order, from the one that holds
// the first mutation later than after, until fn wants no more. fn must leave
// the cursor alone.
func (tx *boltTx) walk(after mutlog.Timestamp, fn func(place) (more bool, err error)) error {
	if err := tx.begin(); err != nil {
		return err
	}
	if tx.hasFolded && tx.folded.head() > after {
		pl, ok, err := tx.place(tx.seekBefore(tx.prefix.key(kindBatch, max(after, 0)+1)))
		if err == nil && (!ok || pl.head() <= after) {
			pl, ok, err = tx.place(tx.cursor.Seek(tx.prefix.key(kindBatch, max(after, 0)+1)))
		}
		for ; ok && err == nil; pl, ok, err = tx.place(tx.cursor.Next()) {
			if more, err := fn(pl); err != nil || !more {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
	for _, recent := range [][]place{tx.sealed, tx.active} {
		i, _ := slices.BinarySearchFunc(recent, after, func(pl place, after mutlog.Timestamp) int {
			if pl.head() <= after {
				return -1
			}
			return 1
		})
		for _, pl := range recent[i:] {
			if more, err := fn(pl); err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// walkBack calls fn with the places of batches from the newest, until fn wants
// no more. fn must leave the cursor alone.
func (tx *boltTx) walkBack(fn func(place) (more bool)) error {
	if err := tx.begin(); err != nil {
		return err
	}
	for _, recent := range [][]place{tx.active, tx.sealed} {
		for _, pl := range slices.Backward(recent) {
			if !fn(pl) {
				return nil
			}
		}
	}
	pl, ok, err := tx.place(tx.seekBefore(tx.prefix.key(kindBatch+1, 0)))
	for ; ok && err == nil && fn(pl); pl, ok, err = tx.place(tx.cursor.Prev()) {
	}
	return err
}

// record returns the batch at a place.
func (tx *boltTx) record(pl place) (r record, err error) {
	if tx.commit != nil && pl.group == tx.commit.nextGroup {
		r, err = parseRecord(tx.commit.records[pl.index])
		return r, cmp.Or(err, tx.leadsTo(pl, &r))
	}
	if tx.group.number != pl.group {
		if tx.groups == nil {
			tx.groups = tx.tx.Bucket(bucketGroups)
		}
		if tx.group, err = readGroup(tx.groups, pl.group); err != nil {
			return r, err
		}
	}
	r, err = tx.group.record(pl.index)
	return r, cmp.Or(err, tx.leadsTo(pl, &r))
}

// leadsTo returns an error if r is not the batch that pl is the place of.
func (tx *boltTx) leadsTo(pl place, r *record) error {
	if r.user != tx.prefix || r.first != pl.first || r.n != pl.n || r.pruned != pl.pruned || r.timestamp(r.n-1) != pl.last {
		return fmt.Errorf("%w: the place of batch %d leads to batch %d of user %x", mutlog.ErrCorrupt, pl.first, r.first, r.user)
	}
	return nil
}

// at returns the batch that holds the mutation with the timestamp t, and its
// index; found is false if pruning has dropped it.
func (tx *boltTx) at(t mutlog.Timestamp) (r record, i int, found bool, err error) {
	err = tx.walk(t-1, func(pl place) (bool, error) {
		if pl.first <= t {
			if r, err = tx.record(pl); err == nil {
				i, found = r.find(t)
			}
		}
		return false, err
	})
	if err == nil && !found {
		var pruned mutlog.Timestamp
		if pruned, err = tx.prunedUpTo(); err == nil && t > pruned {
			err = fmt.Errorf("%w: there is no mutation %d", mutlog.ErrCorrupt, t)
		}
	}
	return r, i, found, err
}

// prunedUpTo returns up to where mutations may be missing.
func (tx *boltTx) prunedUpTo() (mutlog.Timestamp, error) {
	if !tx.bounded {
		return mutlog.Beginning, nil
	}
	a, err := tx.about()
	if err != nil || a == nil {
		return mutlog.Beginning, err
	}
	return a.Pruned, nil
}

// entry returns the mutation with the timestamp t, which aliases the file; nil if
// pruning has dropped it.
func (tx *boltTx) entry(t mutlog.Timestamp) (*mutlog.Entry, error) {
	r, i, found, err := tx.at(t)
	if err != nil || !found {
		return nil, err
	}
	e, err := r.entry(i)
	return &e, err
}

// holding returns the batch that begins with the mutation t.
func (tx *boltTx) holding(t mutlog.Timestamp) (r record, err error) {
	r, i, found, err := tx.at(t)
	if err == nil && (!found || i > 0 || r.pruned) {
		err = fmt.Errorf("%w: there is no batch %d", mutlog.ErrCorrupt, t)
	}
	return r, err
}

// Head implements mutlog.Reader.
func (tx *boltTx) Head() (mutlog.Timestamp, error) {
	pl, ok, err := tx.last()
	if err != nil || !ok {
		return mutlog.Beginning, err
	}
	return pl.head(), nil
}

// maxReadBytes bounds what one read copies out of the file, beyond its first
// batch.
const maxReadBytes = 1 << 20

// batches calls fn with the batches that have mutations later than after, until
// they hold n mutations or fill maxReadBytes. more tells that there are others.
func (tx *boltTx) batches(after mutlog.Timestamp, n int, fn func(record) error) (more bool, err error) {
	size, head := 0, after
	err = tx.walk(after, func(pl place) (bool, error) {
		if n <= 0 {
			more = true
			return false, nil
		}
		r, err := tx.record(pl)
		if err != nil {
			return false, err
		}
		if r.previous > head || size > 0 && r.previous != head {
			if pruned, err := tx.prunedUpTo(); err != nil || r.previous > pruned {
				return false, cmp.Or(err, r.corrupt("the batch before that"))
			}
		}
		head = pl.head()
		if size > 0 && size+r.size() > maxReadBytes {
			more = true
			return false, nil
		}
		n -= r.n
		size += r.size()
		return true, fn(r)
	})
	return more, err
}

// Batches implements mutlog.Reader.
func (tx *boltTx) Batches(after mutlog.Timestamp, n int) (batches []*mutlog.Batch, err error) {
	_, err = tx.batches(after, n, func(r record) error {
		b, err := r.batch()
		batches = append(batches, b)
		return err
	})
	return batches, err
}

// Changes implements mutlog.Reader. A mutation that a later one of the stretch
// supersedes is found by the links that lead back from those; whether one
// behind the stretch does, the index says. The entries alias the file.
func (tx *boltTx) Changes(after, until mutlog.Timestamp, n int) ([]mutlog.Entry, mutlog.Timestamp, error) {
	entries, upTo, err := tx.History(after, until, n)
	if err != nil || len(entries) == 0 {
		return nil, upTo, err
	}
	entries = tx.scratch.dropSuperseded(entries)
	for upTo < until && len(entries) > 0 {
		kept, err := tx.dropNotNewest(entries, until)
		if err == errFar {
			entries = entries[:len(entries)/2] // a shorter stretch, rather than a long transaction
			upTo = entries[len(entries)-1].Timestamp
			continue
		}
		return kept, upTo, err
	}
	return entries, upTo, nil
}

// History implements mutlog.Reader. The entries alias the file.
func (tx *boltTx) History(after, until mutlog.Timestamp, n int) ([]mutlog.Entry, mutlog.Timestamp, error) {
	if tx.scratch == nil {
		tx.scratch = scratches.Get().(*scratch)
	}
	entries := tx.scratch.entries[:0]
	more, err := tx.batches(after, n, func(r record) (err error) {
		if r.first <= until {
			entries, err = r.borrowEntries(entries)
		}
		return err
	})
	tx.scratch.entries = entries
	if err != nil {
		return nil, 0, err
	}
	entries = within(entries, after, until)
	for i, size := 0, 0; i < len(entries); i++ {
		size += max(len(entries[i].Data), len(entries[i].State))
		if size > maxReadBytes && i > 0 {
			entries, more = entries[:i], true // a batch can be many times as large
		}
	}
	if len(entries) == 0 || !more {
		return entries, until, nil
	}
	return entries, entries[len(entries)-1].Timestamp, nil
}

// scratch is the memory of one Changes, which lasts as long as its transaction
// and is used again.
type scratch struct {
	entries []mutlog.Entry
	dead    []bool
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// release ends the use of what tx has handed out.
func (tx *boltTx) release() {
	if tx.scratch != nil {
		clear(tx.scratch.entries) // they point into the file, which may be unmapped
		scratches.Put(tx.scratch)
		tx.scratch = nil
	}
}

// within returns the entries later than after and not later than until.
func within(entries []mutlog.Entry, after, until mutlog.Timestamp) []mutlog.Entry {
	for len(entries) > 0 && entries[0].Timestamp <= after {
		entries = entries[1:]
	}
	for len(entries) > 0 && entries[len(entries)-1].Timestamp > until {
		entries = entries[:len(entries)-1]
	}
	return entries
}

// BatchByKey implements mutlog.Reader.
func (tx *boltTx) BatchByKey(key string) (*mutlog.Batch, error) {
	if err := tx.begin(); err != nil {
		return nil, err
	}
	for _, recent := range [][]place{tx.active, tx.sealed} {
		for _, pl := range recent {
			if !pl.apart {
				continue
			}
			if r, err := tx.record(pl); err != nil {
				return nil, err
			} else if string(r.key) == key && !r.pruned {
				return r.batch()
			}
		}
	}
	k := tx.prefix.receiptKey(key)
	found, v := tx.cursor.Seek(k)
	if !bytes.Equal(found, k) {
		return nil, nil
	}
	first, err := decodeReceipt(k, v)
	if err != nil {
		return nil, err
	}
	r, err := tx.holding(first)
	if err != nil {
		return nil, err
	}
	b, err := r.batch()
	if err == nil && b.Key != key {
		err = fmt.Errorf("%w: the receipt of an Idempotency-Key names batch %d, which has another", mutlog.ErrCorrupt, first)
	}
	return b, err
}

// BatchesOn implements mutlog.Reader. A batch that was not merged is the one
// right behind its base; merged ones are listed under theirs, or recent.
func (tx *boltTx) BatchesOn(base mutlog.Timestamp) iter.Seq2[*mutlog.Batch, error] {
	return func(yield func(*mutlog.Batch, error) bool) {
		err := tx.recordsOn(base, func(r record) bool {
			if r.base != base || len(r.key) > 0 {
				return true
			}
			b, err := r.batch()
			return yield(b, err) && err == nil
		})
		if err != nil {
			yield(nil, err)
		}
	}
}

// recordsOn calls fn with the batches that may have been pushed on base, until
// fn wants no more.
func (tx *boltTx) recordsOn(base mutlog.Timestamp, fn func(record) (more bool)) error {
	if err := tx.begin(); err != nil {
		return err
	}
	more := true
	err := tx.walk(base, func(pl place) (bool, error) {
		r, err := tx.record(pl)
		if err == nil && r.previous == base && r.base == base && !r.pruned {
			more = fn(r)
		}
		return false, err
	})
	if err != nil || !more {
		return err
	}
	start := tx.prefix.mergedKey(base, 0)
	for k, _ := tx.cursor.Seek(start); bytes.HasPrefix(k, start[:keySize]); {
		first := mergedBatch(k)
		r, err := tx.holding(first)
		if err != nil || !fn(r) {
			return err
		}
		k, _ = tx.cursor.Seek(tx.prefix.mergedKey(base, first+1))
	}
	for _, recent := range [][]place{tx.sealed, tx.active} {
		for _, pl := range recent {
			if !pl.apart || pl.first <= base {
				continue
			}
			r, err := tx.record(pl)
			if err != nil || r.base != r.previous && !r.pruned && !fn(r) {
				return err
			}
		}
	}
	return nil
}

// Append implements mutlog.Tx.
func (tx *boltTx) Append(b *mutlog.Batch) error {
	head, err := tx.Head()
	if err != nil {
		return err
	}
	bounds, err := tx.newBounds()
	if err != nil {
		return err
	}
	if b.Previous != head && (b.Previous < head || b.Previous > bounds.Pruned) { // it would be raced for ever
		return fmt.Errorf("a batch that follows %d was appended to a log whose head is %d", b.Previous, head)
	}
	w := tx.write
	w.previous, w.onHead = head, true
	w.place.first, w.place.last, w.place.n = b.First(), b.Head(), len(b.Entries)
	w.place.pruned = b.Head() <= bounds.Pruned
	name := tx.name
	if head != mutlog.Beginning {
		name = ""
	}
	w.record, w.place.tags = encodeRecord(tx.prefix, name, b, w.place.pruned, tx.known)
	w.place.apart = b.Key != "" || b.Base != b.Previous || name != ""
	return nil
}
