package store

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"sort"

	"tidemark/mutlog"
)

// The index
//
// The index of a user leads from a resource to its newest mutation. Brought up
// to date with each push, it would cost one leaf of the B+tree for each
// mutation. So the newest places of a log, its tail, are searched by their tags.
// Once the tail has grown to tailBatches or tailEntries, the folding that makes
// it so settles it: all its mutations go into the index at once, and the last
// place is marked as settled. A small log never has an index at all.
//
// A chunk of the index holds up to chunkEntries entries in the order of their
// hashes, which is the first 16 bytes of the SHA-256 of resource, NUL and
// resourceId: too long for two resources to share one.
//
//	u32   CRC-32C of the key and all that follows
//	n × { 16 bytes hash, u64 timestamp of the newest mutation }
//
// The key of a chunk is the first 7 bytes of the lowest hash that may be in it;
// the next chunk's key bounds it above. The first one's is 0.
const (
	tailBatches  = 32
	tailEntries  = 512
	chunkEntries = 160
	indexEntry   = hashSize + 8
	hashSize     = 16
)

type hash [hashSize]byte

func hashRef(resource, id string) hash {
	var buf [256]byte
	b := append(append(append(buf[:0], resource...), 0), id...)
	sum := sha256.Sum256(b)
	return hash(sum[:hashSize])
}

func (h *hash) tag() uint32 { return binary.BigEndian.Uint32(h[:]) }

// bound returns the part of h that keys of chunks are compared by.
func (h *hash) bound() mutlog.Timestamp {
	return mutlog.Timestamp(binary.BigEndian.Uint64(h[:]) >> 8)
}

// maxSteps bounds how many steps into the past of resources a pull takes in one
// transaction, but for a single resource.
const maxSteps = 4096

// errFar: a search would take more steps than it may.
var errFar = errors.New("what is sought is too far back")

// search is the search for the newest mutation of one resource.
type search struct {
	hash  hash
	ref   mutlog.Ref
	index int // of the caller's
	found mutlog.Timestamp
	entry *mutlog.Entry // the mutation found, if it has been read; it aliases the file
}

// newest finds the timestamps of the newest mutations that are not later than
// at, or Beginning, or fails with errFar if that takes more than steps. It may
// order searches by hash.
func (tx *boltTx) newest(searches []search, at mutlog.Timestamp, steps int) error {
	for i := range searches {
		s := &searches[i]
		s.hash, s.found = hashRef(s.ref.Resource, s.ref.ResourceID), mutlog.Beginning
	}
	if tx.write != nil {
		tx.known = knownHashes(searches)
	}
	if err := tx.searchTail(searches, at); err != nil {
		return err
	}
	return tx.searchIndex(searches, at, steps)
}

// hashes are those of resources that were searched for, which are nearly always
// those that are appended then.
type hashes struct {
	refs []mutlog.Ref
	of   []hash
}

func knownHashes(searches []search) *hashes {
	h := &hashes{make([]mutlog.Ref, len(searches)), make([]hash, len(searches))}
	for i := range searches {
		h.refs[i], h.of[i] = searches[i].ref, searches[i].hash
	}
	return h
}

// at returns the hash of ref, which the i-th search may have been for. h may be nil.
func (h *hashes) at(i int, ref mutlog.Ref) hash {
	if h != nil && i < len(h.refs) && h.refs[i] == ref {
		return h.of[i]
	}
	return hashRef(ref.Resource, ref.ResourceID)
}

// tagged finds searches by their tags: a hash table with open addressing, and
// before it one bit for each value of the first 12 bits of a tag, because nearly
// all tags of places are of other resources.
type tagged struct {
	bits [64]uint64
	mask uint32     // of slots
	few  [256]int32 // slots, each of which holds the index of a search + 1, or 0
	many []int32    // in their place, where there are more searches than in a push
}

// fill adds all searches to an empty t.
func (t *tagged) fill(searches []search) {
	size := 8
	for size < 2*len(searches) {
		size *= 2
	}
	if t.mask = uint32(size - 1); size > len(t.few) {
		t.many = make([]int32, size)
	}
	for i := range searches {
		tag := searches[i].hash.tag()
		t.bits[tag>>26] |= 1 << (tag >> 20 % 64)
		slot := tag & t.mask
		for *t.at(slot) != 0 {
			slot = (slot + 1) & t.mask
		}
		*t.at(slot) = int32(i) + 1
	}
}

func (t *tagged) at(slot uint32) *int32 {
	if t.many != nil {
		return &t.many[slot]
	}
	return &t.few[slot]
}

func (t *tagged) may(tag uint32) bool { return t.bits[tag>>26]&(1<<(tag>>20%64)) != 0 }

// of yields the indices of the searches that may have this tag.
func (t *tagged) of(tag uint32) iter.Seq[int] {
	return func(yield func(int) bool) {
		for slot := tag & t.mask; *t.at(slot) != 0; slot = (slot + 1) & t.mask {
			if !yield(int(*t.at(slot)) - 1) {
				return
			}
		}
	}
}

// readTail reads the places behind the index, the newest first.
func (tx *boltTx) readTail() error {
	if tx.tailRead {
		return nil
	}
	tx.settled = mutlog.Beginning
	err := tx.walkBack(func(pl place) bool {
		if pl.settled {
			tx.settled = pl.head()
			return false
		}
		tx.tail = append(tx.tail, pl)
		return true
	})
	tx.tailRead = true
	return err
}

func (tx *boltTx) searchTail(searches []search, at mutlog.Timestamp) error {
	if err := tx.readTail(); err != nil {
		return err
	}
	var sought tagged
	sought.fill(searches)
	for i := range tx.tail {
		if err := tx.searchPlace(searches, &sought, &tx.tail[i], at); err != nil {
			return err
		}
	}
	return nil
}

// searchPlace takes from the batch at pl what is sought and not found yet.
func (tx *boltTx) searchPlace(searches []search, sought *tagged, pl *place, at mutlog.Timestamp) (err error) {
	var r record // of pl, once it is needed
	for i := pl.n - 1; i >= 0; i-- {
		tag := pl.tag(i)
		if !sought.may(tag) || !pl.pruned && pl.first+mutlog.Timestamp(i) > at {
			continue
		}
		for j := range sought.of(tag) {
			s := &searches[j]
			if s.found != mutlog.Beginning || s.hash.tag() != tag {
				continue
			}
			if r.n == 0 {
				if r, err = tx.record(*pl); err != nil {
					return err
				}
			}
			e, err := r.entry(i)
			if err != nil {
				return err
			}
			if e.Timestamp <= at && e.Ref() == s.ref {
				s.found, s.entry = e.Timestamp, &e
			}
		}
	}
	return nil
}

func (tx *boltTx) searchIndex(searches []search, at mutlog.Timestamp, steps int) error {
	if tx.settled == mutlog.Beginning {
		return nil
	}
	slices.SortFunc(searches, func(a, b search) int { return bytes.Compare(a.hash[:], b.hash[:]) })
	var c chunk
	for i := range searches {
		s := &searches[i]
		if s.found != mutlog.Beginning {
			continue
		}
		if c.entries == nil || s.hash.bound() >= c.upper {
			var err error
			if c, err = tx.chunkOf(s.hash.bound()); err != nil {
				return err
			}
		}
		t := c.find(s.hash)
		// The index knows the newest of all; older ones are linked from there.
		for ; t > at; steps-- {
			if steps == 0 {
				return errFar
			}
			e, err := tx.entry(t)
			if err != nil {
				return err
			}
			if e == nil {
				t = mutlog.Beginning
				break
			}
			t = e.Prev
		}
		s.found = t
	}
	return nil
}

// Newest implements mutlog.Reader.
func (tx *boltTx) Newest(refs []mutlog.Ref, at mutlog.Timestamp) ([]*mutlog.Entry, error) {
	searches := make([]search, len(refs))
	for i, ref := range refs {
		searches[i] = search{ref: ref, index: i}
	}
	if err := tx.newest(searches, at, math.MaxInt); err != nil {
		return nil, err
	}
	newest := make([]*mutlog.Entry, len(refs))
	for i := range searches {
		s := &searches[i]
		if s.found == mutlog.Beginning {
			continue
		}
		e := s.entry
		if e == nil {
			var err error
			if e, err = tx.entry(s.found); err != nil {
				return nil, err
			}
			if e == nil {
				continue
			}
		}
		if e.Ref() != s.ref {
			return nil, fmt.Errorf("%w: the index leads from %s %q to mutation %d, which is of another resource",
				mutlog.ErrCorrupt, s.ref.Resource, s.ref.ResourceID, s.found)
		}
		newest[s.index] = e
	}
	return newest, nil
}

// dropSuperseded drops the entries that a later one of entries supersedes.
func (s *scratch) dropSuperseded(entries []mutlog.Entry) []mutlog.Entry {
	dead := slices.Grow(s.dead[:0], len(entries))[:len(entries)]
	clear(dead)
	s.dead = dead
	first := slices.IndexFunc(entries, func(e mutlog.Entry) bool { return e.Prev >= entries[0].Timestamp })
	if first < 0 {
		return entries
	}
	for i := range entries {
		prev := entries[i].Prev
		if prev < entries[0].Timestamp {
			continue
		}
		j := sort.Search(i, func(j int) bool { return entries[j].Timestamp >= prev })
		if j < i && entries[j].Timestamp == prev {
			dead[j] = true
		}
	}
	kept := entries[:0]
	for i := range entries {
		if !dead[i] {
			kept = append(kept, entries[i])
		}
	}
	return kept
}

// dropNotNewest drops the entries that were superseded up to until.
func (tx *boltTx) dropNotNewest(entries []mutlog.Entry, until mutlog.Timestamp) ([]mutlog.Entry, error) {
	searches := make([]search, len(entries))
	for i := range entries {
		searches[i] = search{ref: entries[i].Ref(), index: i}
	}
	steps := maxSteps
	if len(entries) == 1 {
		steps = math.MaxInt
	}
	if err := tx.newest(searches, until, steps); err != nil {
		return nil, err
	}
	newest := make([]mutlog.Timestamp, len(entries))
	for _, s := range searches {
		newest[s.index] = s.found
	}
	kept := entries[:0]
	for i := range entries {
		if entries[i].Timestamp == newest[i] {
			kept = append(kept, entries[i])
		}
	}
	return kept, nil
}

// chunk is one chunk of the index: the entries of the hashes whose bounds are
// from lower to below upper.
type chunk struct {
	lower, upper mutlog.Timestamp
	entries      []byte
}

func (c *chunk) len() int { return len(c.entries) / indexEntry }

func (c *chunk) hash(i int) []byte { return c.entries[i*indexEntry:][:hashSize] }

func (c *chunk) timestamp(i int) mutlog.Timestamp {
	return mutlog.Timestamp(binary.BigEndian.Uint64(c.entries[i*indexEntry+hashSize:]))
}

// find returns the timestamp under h, or Beginning.
func (c *chunk) find(h hash) mutlog.Timestamp {
	i := sort.Search(c.len(), func(i int) bool { return bytes.Compare(c.hash(i), h[:]) >= 0 })
	if i < c.len() && hash(c.hash(i)) == h {
		return c.timestamp(i)
	}
	return mutlog.Beginning
}

// chunkOf returns the chunk that covers bound; while there is no index, an
// empty one that covers all.
func (tx *boltTx) chunkOf(bound mutlog.Timestamp) (chunk, error) {
	c := chunk{upper: 1 << 56, entries: []byte{}}
	k, v := tx.cursor.Seek(tx.prefix.key(kindIndex, bound))
	if !tx.prefix.has(k, kindIndex) || keyNumber(k) != bound {
		if tx.prefix.has(k, kindIndex) {
			c.upper = keyNumber(k)
		}
		k, v = tx.seekBefore(tx.prefix.key(kindIndex, bound))
		if !tx.prefix.has(k, kindIndex) {
			return c, nil
		}
	} else if next, _ := tx.cursor.Next(); tx.prefix.has(next, kindIndex) {
		c.upper = keyNumber(next)
	}
	if len(k) != keySize || !isSealed(k, v) || (len(v)-4)%indexEntry != 0 {
		return c, fmt.Errorf("%w: the chunk of the index at %x", mutlog.ErrCorrupt, k)
	}
	c.lower, c.entries = keyNumber(k), v[4:]
	return c, nil
}

// settle returns what brings the index up to the last of places, which are about
// to be folded; nothing while the tail is short.
func (tx *boltTx) settle(places []place) ([]keyValue, error) {
	if err := tx.readTail(); err != nil {
		return nil, err
	}
	n := 0
	for _, tail := range [][]place{tx.tail, places} {
		for i := range tail {
			n += tail[i].n
		}
	}
	if n < tailEntries && len(tx.tail)+len(places) < tailBatches {
		return nil, nil
	}
	updates, err := tx.updates(places, n)
	if err != nil {
		return nil, err
	}
	var puts []keyValue
	for len(updates) > 0 {
		c, err := tx.chunkOf(updates[0].hash.bound())
		if err != nil {
			return nil, err
		}
		n := sort.Search(len(updates), func(i int) bool { return updates[i].hash.bound() >= c.upper })
		puts = tx.appendChunk(puts, c, updates[:n])
		updates = updates[n:]
	}
	return puts, nil
}

// updates returns the newest mutation of each resource in the tail and places,
// n mutations in all, in the order of hashes.
func (tx *boltTx) updates(places []place, n int) ([]search, error) {
	updates := make([]search, 0, n)
	for _, tail := range [][]place{tx.tail, places} {
		for _, pl := range tail {
			r, err := tx.record(pl)
			if err != nil {
				return nil, err
			}
			if updates, err = r.appendUpdates(updates); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(updates, func(a, b search) int {
		if c := bytes.Compare(a.hash[:], b.hash[:]); c != 0 {
			return c
		}
		return cmp.Compare(b.found, a.found) // the newest first, which is the one to keep
	})
	return slices.CompactFunc(updates, func(a, b search) bool { return a.hash == b.hash }), nil
}

// appendUpdates appends the hash and timestamp of each mutation of a batch.
func (r *record) appendUpdates(updates []search) ([]search, error) {
	for i := range r.n {
		e, err := r.entry(i)
		if err != nil {
			return nil, err
		}
		updates = append(updates, search{hash: hashRef(e.Resource, e.ResourceID), found: e.Timestamp})
	}
	return updates, nil
}

// appendChunk appends c with updates merged in, split if it becomes too large. An
// update that leads to Beginning takes its entry away.
func (tx *boltTx) appendChunk(puts []keyValue, c chunk, updates []search) []keyValue {
	merged := make([]byte, 0, len(c.entries)+len(updates)*indexEntry)
	i := 0
	for _, u := range updates {
		for i < c.len() && bytes.Compare(c.hash(i), u.hash[:]) < 0 {
			merged = append(merged, c.entries[i*indexEntry:][:indexEntry]...)
			i++
		}
		if i < c.len() && hash(c.hash(i)) == u.hash {
			i++
		}
		if u.found == mutlog.Beginning {
			continue
		}
		merged = append(merged, u.hash[:]...)
		merged = binary.BigEndian.AppendUint64(merged, uint64(u.found))
	}
	merged = append(merged, c.entries[i*indexEntry:]...)

	n := len(merged) / indexEntry
	if n == 0 {
		return append(puts, keyValue{key: tx.prefix.key(kindIndex, c.lower), gone: true})
	}
	pieces := (n + chunkEntries - 1) / chunkEntries
	bound := func(i int) mutlog.Timestamp {
		h := hash(merged[i*indexEntry:])
		return h.bound()
	}
	lower, start := c.lower, 0
	for p := range pieces {
		end := max(n*(p+1)/pieces, start)
		for start < end && end < n && bound(end-1) == bound(end) {
			end++ // hashes that a key does not tell apart stay together
		}
		part := merged[start*indexEntry : end*indexEntry]
		if start == end {
			continue
		}
		if start > 0 {
			lower = bound(start)
		}
		start = end
		k := tx.prefix.key(kindIndex, lower)
		puts = append(puts, keyValue{key: k, value: sealed(k, append(make([]byte, 4, 4+len(part)), part...))})
	}
	return puts
}
