package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
)

// Recent batches
//
// The places of the newest batches are in memory. Once there are foldBatches of
// them, they are sealed, and each commit folds some into the bucket "logs", in the
// order of keys, so that those that share a leaf or a branch are written
// together; meanwhile new ones gather. When all sealed ones are folded, "folded"
// in the bucket "tidemark" says up to which group that is, and they are forgotten.
// What lies behind "folded" is read again when the store is opened. A user who has
// many recent places of their own is folded at once, because every push of theirs
// searches these.
//
// A reader takes the recent places of its user before it begins its transaction,
// and then leaves out those that it finds folded. So it misses none, and sees no
// batch whose commit has not ended: recent places are published only then.

// foldBatches is how many batches gather before they are folded: more make
// folding cheaper, and memory (about 200 bytes each) and opening after a crash
// dearer.
const foldBatches = 32 << 10

// A user is folded at once who has about so many recent batches or mutations.
const (
	hotBatches   = 64
	hotMutations = 1024
)

var metaFolded = []byte("folded") // u64: all groups up to this are folded

// recent keeps the places that are not folded, or not all of whose generation.
// Only the committer changes it.
type recent struct {
	mu     sync.RWMutex
	active map[prefix][]place
	sealed map[prefix][]place
	count  int // of batches in active

	hot map[prefix]bool // users to be folded at once; the committer's
}

func newRecent() *recent {
	return &recent{active: map[prefix][]place{}, hot: map[prefix]bool{}}
}

// of returns the recent places of a user, in two parts, the older first.
func (r *recent) of(p prefix) (sealed, active []place) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.sealed[p], r.active[p]
}

// users returns all who have recent places, and the oldest of those.
func (r *recent) users() map[prefix]place {
	r.mu.RLock()
	defer r.mu.RUnlock()
	oldest := make(map[prefix]place, len(r.active)+len(r.sealed))
	for _, generation := range []map[prefix][]place{r.active, r.sealed} {
		for p, places := range generation {
			oldest[p] = places[0]
		}
	}
	return oldest
}

// publish adds the batches of a group.
func (r *recent) publish(writes []*write, places []place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, w := range writes {
		list := append(r.active[w.user], places[i])
		r.active[w.user] = list
		n := 0
		for _, pl := range list {
			n += pl.n
		}
		if len(list) >= hotBatches || n >= hotMutations {
			r.hot[w.user] = true
		}
	}
	r.count += len(writes)
}

// cool forgets all places of users who have been folded at once.
func (r *recent) cool(users []prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range users {
		r.count -= len(r.active[p])
		delete(r.active, p)
		delete(r.sealed, p)
		delete(r.hot, p)
	}
}

// foldHot folds the users who are to be folded at once, and returns them.
func (r *recent) foldHot(tx *bolt.Tx, c *commit) ([]prefix, error) {
	users := slices.Collect(maps.Keys(r.hot))
	for _, p := range users {
		if err := c.foldUser(tx, p, slices.Concat(r.sealed[p], r.active[p])); err != nil {
			return nil, err
		}
	}
	return users, nil
}

// seal makes the active places those to be folded.
func (r *recent) seal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealed, r.active, r.count = r.active, make(map[prefix][]place, len(r.active)), 0
}

// forget drops the sealed places, which have been folded.
func (r *recent) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealed = nil
}

// fold is the folding of the sealed places under way.
type fold struct {
	users []prefix // in order; those before next are folded
	next  int
	upTo  uint64 // the last group that the sealed places are in
}

func newFold(sealed map[prefix][]place, upTo uint64) *fold {
	users := slices.SortedFunc(maps.Keys(sealed), func(a, b prefix) int { return bytes.Compare(a[:], b[:]) })
	return &fold{users: users, upTo: upTo}
}

// step folds about n batches in tx, and returns the fold as it is after tx; nil
// if that is its end.
func (f *fold) step(tx *bolt.Tx, c *commit, r *recent, n int) (*fold, error) {
	after := *f
	for ; n > 0 && after.next < len(after.users); after.next++ {
		p := after.users[after.next]
		if err := c.foldUser(tx, p, r.sealed[p]); err != nil {
			return nil, err
		}
		n -= len(r.sealed[p])
	}
	if after.next < len(after.users) {
		return &after, nil
	}
	return nil, tx.Bucket(bucketMeta).Put(metaFolded, binary.BigEndian.AppendUint64(nil, after.upTo))
}

// foldUser brings places of one user into the bucket "logs", and the index up to
// them if the tail has become long.
func (c *commit) foldUser(tx *bolt.Tx, p prefix, places []place) error {
	user := newBoltTx(tx, p, nil, nil)
	user.commit = c
	last, ok, err := user.last()
	if err != nil {
		return err
	}
	for ok && len(places) > 0 && places[0].first <= last.first {
		places = places[1:] // a crash has ended the folding before
	}
	if len(places) == 0 {
		return nil
	}
	puts, err := user.settle(places)
	if err != nil {
		return err
	}
	settled := puts != nil
	for i := range places {
		pl := places[i]
		pl.bounded = user.bounded
		pl.settled = settled && i == len(places)-1
		k := p.key(kindBatch, pl.first)
		puts = append(puts, keyValue{key: k, value: encodePlace(k, &pl)})
		if pl.apart {
			if puts, err = user.appendApart(puts, pl); err != nil {
				return err
			}
		}
	}
	return putAll(tx.Bucket(bucketLogs), puts)
}

// keyValue is a key and its new value, or one that goes.
type keyValue struct {
	key, value []byte
	gone       bool
}

func putAll(b *bolt.Bucket, puts []keyValue) (err error) {
	for i := 0; i < len(puts) && err == nil; i++ {
		if kv := puts[i]; kv.gone {
			err = b.Delete(kv.key)
		} else {
			err = b.Put(kv.key, kv.value)
		}
	}
	return err
}

// appendApart appends what a batch needs besides its place.
func (tx *boltTx) appendApart(puts []keyValue, pl place) ([]keyValue, error) {
	r, err := tx.record(pl)
	if err != nil {
		return nil, err
	}
	if len(r.name) > 0 {
		a := &about{Bounds: mutlog.NoBounds}
		if tx.bounded {
			if a, err = tx.about(); err != nil {
				return nil, err
			}
		}
		a.name = mutlog.User(r.name)
		k := tx.prefix.key(kindUser, 0)
		puts = append(puts, keyValue{key: k, value: encodeAbout(k, a)})
	}
	switch {
	case r.pruned: // is no receipt
	case len(r.key) > 0:
		k := tx.prefix.receiptKey(string(r.key))
		puts = append(puts, keyValue{key: k, value: encodeReceipt(k, r.first)})
	case r.base != r.previous:
		puts = append(puts, keyValue{key: tx.prefix.mergedKey(r.base, r.first)})
	}
	return puts, nil
}

// readRecent reads the places of all batches behind "folded" that have none in
// the bucket "logs": users who are folded at once have theirs there, and so has
// what pruning leaves.
func readRecent(tx *bolt.Tx) (r *recent, lastGroup uint64, err error) {
	r = newRecent()
	folded, err := readFolded(tx)
	if err != nil {
		return nil, 0, err
	}
	groups, logs := tx.Bucket(bucketGroups), tx.Bucket(bucketLogs)
	c := groups.Cursor()
	lastGroup = folded
	for k, _ := c.Seek(groupKey(folded + 1)); k != nil; k, _ = c.Next() {
		if len(k) != 8 || binary.BigEndian.Uint64(k) != lastGroup+1 {
			return nil, 0, fmt.Errorf("%w: group %x follows group %d", ErrDamaged, k, lastGroup)
		}
		lastGroup++
		g, err := readGroup(groups, lastGroup)
		if err != nil {
			return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		for i := range g.len() {
			rec, err := g.record(i)
			if err != nil {
				return nil, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
			}
			if logs.Get(rec.user.key(kindBatch, rec.first)) != nil {
				continue
			}
			r.active[rec.user] = append(r.active[rec.user], rec.place(lastGroup, i))
			r.count++
		}
	}
	return r, lastGroup, nil
}

func readFolded(tx *bolt.Tx) (uint64, error) {
	v := tx.Bucket(bucketMeta).Get(metaFolded)
	switch {
	case v == nil:
		return 0, nil
	case len(v) != 8:
		return 0, fmt.Errorf("%w: the number of the last folded group", ErrDamaged)
	}
	return binary.BigEndian.Uint64(v), nil
}

// behind returns the places later than t.
func behind(places []place, t mutlog.Timestamp) []place {
	i, _ := slices.BinarySearchFunc(places, t, func(pl place, t mutlog.Timestamp) int { return cmp.Compare(pl.first, t+1) })
	return places[i:]
}
