package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
)

// The bounds of a log stand with the name of its user, under the key 00 of the
// bucket "logs":
//
//	u32     CRC-32C of the key and all that follows
//	uvarint pruned + 1, horizon + 1
//	uvarint number of fences that the gaps take account of
//	uvarint number of gaps; for each: after + 1, until + 1
//	bytes   the rest: name of the user; none if the log is empty
//
// That is not read where it says nothing: whether it does is a flag of the last
// folded place, which is read for every head. A log that has only bounds has no
// place: then the key before where its places would be is 00.
//
// Fences, under "fences" in the bucket "tidemark", count for all logs:
//
//	u32     CRC-32C of the key and all that follows
//	n × { u64 timestamp, u64 number of the newest group at that time }
//
// The gap of a fence in a log begins with the head before the first batch that
// is later than the fence, which that batch tells (previous).

// about is what key 00 says of a log.
type about struct {
	mutlog.Bounds
	fences int
	name   mutlog.User
}

func encodeAbout(k []byte, a *about) []byte {
	v := make([]byte, 4, 4+4*binary.MaxVarintLen64+16*len(a.Gaps)+len(a.name))
	v = binary.AppendUvarint(v, uint64(a.Pruned+1))
	v = binary.AppendUvarint(v, uint64(a.Horizon+1))
	v = binary.AppendUvarint(v, uint64(a.fences))
	v = binary.AppendUvarint(v, uint64(len(a.Gaps)))
	for _, gap := range a.Gaps {
		v = binary.AppendUvarint(v, uint64(gap.After+1))
		v = binary.AppendUvarint(v, uint64(gap.Until+1))
	}
	return sealed(k, append(v, a.name...))
}

func decodeAbout(k, v []byte) (*about, error) {
	if len(k) != keySize || k[prefixSize] != kindUser || !isSealed(k, v) {
		return nil, fmt.Errorf("%w: the name of the user, or its bounds, at key %x", mutlog.ErrCorrupt, k)
	}
	d := decoder{b: v[4:]}
	a := &about{}
	a.Pruned, a.Horizon = d.timestamp(), d.timestamp()
	a.fences = int(d.uvarint())
	for n := d.uvarint(); n > 0 && !d.failed; n-- {
		a.Gaps = append(a.Gaps, mutlog.Gap{After: d.timestamp(), Until: d.timestamp()})
	}
	a.name = mutlog.User(d.b)
	if d.failed {
		return nil, fmt.Errorf("%w: the name of the user, or its bounds, at key %x", mutlog.ErrCorrupt, k)
	}
	return a, nil
}

// timestamp reads a timestamp that is written with 1 added.
func (d *decoder) timestamp() mutlog.Timestamp { return mutlog.Timestamp(d.uvarint()) - 1 }

// fence is the time of a restore, and the newest group at that time.
type fence struct {
	at    mutlog.Timestamp
	group uint64
}

var metaFences = []byte("fences")

func readFences(tx *bolt.Tx) ([]fence, error) {
	v := tx.Bucket(bucketMeta).Get(metaFences)
	if v == nil {
		return nil, nil
	}
	if !isSealed(metaFences, v) || (len(v)-4)%16 != 0 {
		return nil, fmt.Errorf("%w: the times at which it was restored", ErrDamaged)
	}
	var fences []fence
	for v = v[4:]; len(v) > 0; v = v[16:] {
		fences = append(fences, fence{mutlog.Timestamp(binary.BigEndian.Uint64(v)), binary.BigEndian.Uint64(v[8:])})
	}
	return fences, nil
}

func writeFences(tx *bolt.Tx, fences []fence) error {
	v := make([]byte, 4, 4+16*len(fences))
	for _, f := range fences {
		v = binary.BigEndian.AppendUint64(v, uint64(f.at))
		v = binary.BigEndian.AppendUint64(v, f.group)
	}
	return tx.Bucket(bucketMeta).Put(metaFences, sealed(metaFences, v))
}

// about returns what key 00 says, or nil if there is no such key.
func (tx *boltTx) about() (*about, error) {
	k := tx.prefix.key(kindUser, 0)
	v := tx.cursor.Bucket().Get(k) // and leaves the cursor alone
	if v == nil {
		return nil, nil
	}
	return decodeAbout(k, v)
}

// Bounds implements mutlog.Reader.
func (tx *boltTx) Bounds() (mutlog.Bounds, error) {
	if err := tx.begin(); err != nil {
		return mutlog.NoBounds, err
	}
	fences, bounds := tx.fences, mutlog.NoBounds
	if tx.bounded {
		a, err := tx.about()
		if err != nil || a == nil {
			return bounds, err
		}
		bounds, fences = a.Bounds, fences[min(a.fences, len(fences)):]
	}
	for _, f := range fences {
		head, err := tx.headAt(f)
		if err != nil {
			return bounds, err
		}
		if head < f.at {
			bounds.Gaps = append(bounds.Gaps, mutlog.Gap{After: head, Until: f.at})
		}
	}
	return bounds, nil
}

// newBounds returns the bounds that the log is to have.
func (tx *boltTx) newBounds() (mutlog.Bounds, error) {
	if tx.write.bounds != nil {
		return *tx.write.bounds, nil
	}
	return tx.Bounds()
}

// headAt returns the head that the log had when f was recorded, or one that is
// not earlier than f.
func (tx *boltTx) headAt(f fence) (mutlog.Timestamp, error) {
	head, err := tx.Head()
	if err != nil || head <= f.at {
		return head, err
	}
	return head, tx.walk(f.at, func(pl place) (bool, error) {
		if pl.group <= f.group {
			return false, nil
		}
		r, err := tx.record(pl)
		head = r.previous
		return false, err
	})
}

// SetBounds implements mutlog.Tx.
func (tx *boltTx) SetBounds(bounds mutlog.Bounds) error {
	old, err := tx.Bounds()
	if err != nil {
		return err
	}
	if tx.write.previous, err = tx.Head(); err != nil {
		return err
	}
	bounds.Gaps = slices.Clone(bounds.Gaps)
	b := boundsWrite{user: tx.prefix, old: old, new: bounds, fences: tx.fences}
	tx.write.bounds = &bounds
	tx.write.edits = append(tx.write.edits, edit{b.check, b.apply})
	tx.write.onHead = tx.write.onHead || !slices.Equal(old.Gaps, bounds.Gaps)
	return nil
}

// boundsWrite replaces the bounds of a log, which were the old ones when there
// were these fences.
type boundsWrite struct {
	user     prefix
	old, new mutlog.Bounds
	fences   []fence
}

// check fails if the bounds are not the old ones any more.
func (b *boundsWrite) check(s *Bolt, tx *bolt.Tx, c *commit) error {
	user := newBoltTx(tx, b.user, nil, nil)
	user.sealed, user.active = s.recent.of(b.user)
	user.fences, user.commit = b.fences, c
	now, err := user.Bounds()
	if err == nil && (len(s.allFences()) != len(b.fences) || !sameBounds(now, b.old)) {
		err = errRaced
	}
	return err
}

// apply writes the new bounds. If the log had none, it folds what is recent of
// the user, because the last folded place says whether there are bounds.
func (b *boundsWrite) apply(s *Bolt, tx *bolt.Tx, c *commit) error {
	user := newBoltTx(tx, b.user, nil, nil)
	if err := user.begin(); err != nil {
		return err
	}
	if !user.bounded {
		sealed, active := s.recent.of(b.user)
		if err := c.foldUser(tx, b.user, slices.Concat(sealed, active)); err != nil {
			return err
		}
		c.folded = append(c.folded, b.user)
	}
	c.gaps = c.gaps || !slices.Equal(b.old.Gaps, b.new.Gaps)
	return b.write(newBoltTx(tx, b.user, nil, nil))
}

// write writes the bounds of a log whose last folded place tells of bounds, or of
// which nothing is recent.
func (b *boundsWrite) write(user *boltTx) error {
	a, err := user.about()
	if err != nil {
		return err
	}
	if a == nil {
		a = &about{}
	}
	a.Bounds, a.fences = b.new, len(b.fences)
	last, ok, err := user.last()
	if err != nil {
		return err
	}
	logs, k := user.tx.Bucket(bucketLogs), b.user.key(kindUser, 0)
	if err := logs.Put(k, encodeAbout(k, a)); err != nil || !ok || last.bounded {
		return err
	}
	last.bounded = true
	k = b.user.key(kindBatch, last.first)
	return logs.Put(k, encodePlace(k, &last))
}

func sameBounds(a, b mutlog.Bounds) bool {
	return a.Pruned == b.Pruned && a.Horizon == b.Horizon && slices.Equal(a.Gaps, b.Gaps)
}

// Fence implements mutlog.Store.
func (s *Bolt) Fence(ctx context.Context, at mutlog.Timestamp) error {
	return s.edit(ctx, edit{apply: func(s *Bolt, tx *bolt.Tx, c *commit) error {
		earlier := s.allFences()
		if c.fences != nil {
			earlier = c.fences
		}
		c.fences = append(slices.Clone(earlier), fence{at, s.lastGroup})
		c.gaps = true
		return writeFences(tx, c.fences)
	}})
}

// allFences returns the fences, which nobody changes.
func (s *Bolt) allFences() []fence {
	if fences := s.fences.Load(); fences != nil {
		return *fences
	}
	return nil
}
