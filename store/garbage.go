package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
)

// A group holds batches of many users, and what pruning has dropped of them stays
// in it as garbage, until all of it is: then the group is deleted. One that is
// mostly garbage is cleaned: what is left of it moves into the group of the
// transaction that does it. So garbage is never more than about a half, and what
// is moved is never more than what that frees.
//
// The bucket "garbage" says of each group that has some how much:
//
//	u64 number of the group → u32 CRC-32C of the key and all that follows
//	                          u64 bytes of its batches that no place leads to
//	                          u64 bytes of all its batches
var bucketGarbage = []byte("garbage")

const (
	garbageSize = 4 + 8 + 8

	// cleanGroups bounds how many groups one transaction looks at, and
	// cleanBytes how much of them it moves.
	cleanGroups = 256
	cleanBytes  = 512 << 10
)

func decodeGarbage(k, v []byte) (garbage, total int, err error) {
	if len(k) != 8 || len(v) != garbageSize || !isSealed(k, v) {
		return 0, 0, fmt.Errorf("%w: the garbage of group %x", mutlog.ErrCorrupt, k)
	}
	return int(binary.BigEndian.Uint64(v[4:])), int(binary.BigEndian.Uint64(v[12:])), nil
}

func encodeGarbage(k []byte, garbage, total int) []byte {
	v := binary.BigEndian.AppendUint64(make([]byte, 4, garbageSize), uint64(garbage))
	return sealed(k, binary.BigEndian.AppendUint64(v, uint64(total)))
}

// add adds a record to the group of the transaction and returns where it is.
func (c *commit) add(record []byte) (group uint64, index int) {
	c.records = append(c.records, record)
	return c.nextGroup, len(c.records) - 1
}

// waste notes that bytes of a group become garbage.
func (c *commit) waste(group uint64, bytes int) {
	if c.wasted == nil {
		c.wasted = map[uint64]int{}
	}
	c.wasted[group] += bytes
}

// collect brings the bucket "garbage" up to what an edit has wasted, deletes the
// groups that nothing is left of, and cleans others: all that have garbage of
// the edit, if it is to be thorough.
func (s *Bolt) collect(tx *bolt.Tx, c *commit, thorough bool) error {
	for number, wasted := range c.wasted {
		garbage, err := c.addGarbage(tx, number, wasted)
		if err != nil {
			return err
		}
		if garbage || thorough {
			if err := c.clean(tx, number); err != nil {
				return err
			}
		}
	}
	c.wasted = nil
	return s.cleanSome(tx, c)
}

// addGarbage adds to the garbage of a group; all tells that it is nothing else.
func (c *commit) addGarbage(tx *bolt.Tx, number uint64, wasted int) (all bool, err error) {
	bucket, k := tx.Bucket(bucketGarbage), groupKey(number)
	g, err := readGroup(tx.Bucket(bucketGroups), number)
	if err != nil {
		return false, err
	}
	if v := bucket.Get(k); v != nil {
		before, _, err := decodeGarbage(k, v)
		if err != nil {
			return false, err
		}
		wasted += before
	}
	return wasted >= len(g.batches), bucket.Put(k, encodeGarbage(k, wasted, len(g.batches)))
}

// cleanSome looks at the next groups that have garbage, and cleans those that
// are mostly that.
func (s *Bolt) cleanSome(tx *bolt.Tx, c *commit) error {
	var mostly []uint64
	size := 0
	cursor := tx.Bucket(bucketGarbage).Cursor()
	k, v := cursor.Seek(groupKey(c.cleaned + 1))
	for n := 0; n < cleanGroups && size < cleanBytes && k != nil; n++ {
		garbage, total, err := decodeGarbage(k, v)
		if err != nil {
			return err
		}
		c.cleaned = binary.BigEndian.Uint64(k)
		if c.cleaned <= s.folded && 2*garbage >= total {
			mostly = append(mostly, c.cleaned)
			size += total - garbage
		}
		k, v = cursor.Next()
	}
	if k == nil {
		c.cleaned = 0 // and from the start
	}
	for _, number := range mostly {
		if err := c.clean(tx, number); err != nil && !errors.Is(err, mutlog.ErrCorrupt) {
			return err
		}
	}
	return nil
}

// clean moves what is left of a group and deletes it. If it meets damage, it has
// changed nothing.
func (c *commit) clean(tx *bolt.Tx, number uint64) error {
	groups, logs := tx.Bucket(bucketGroups), tx.Bucket(bucketLogs)
	g, err := readGroup(groups, number)
	if err != nil {
		return err
	}
	moves, err := g.left(logs)
	if err != nil {
		return err
	}
	for _, m := range moves {
		m.place.group, m.place.index = c.add(bytes.Clone(g.raw(m.place.index)))
		if err := logs.Put(m.key, encodePlace(m.key, &m.place)); err != nil {
			return err
		}
	}
	c.dropped += len(moves)
	if err := tx.Bucket(bucketGarbage).Delete(groupKey(number)); err != nil {
		return err
	}
	return groups.DeleteBucket(groupKey(number))
}

// move is the place of a batch that is to be moved.
type move struct {
	key   []byte
	place place
}

// left returns the places that lead to a group.
func (g *group) left(logs *bolt.Bucket) (moves []move, err error) {
	for i := range g.len() {
		r, err := g.record(i)
		if err != nil {
			return nil, err
		}
		k := r.user.key(kindBatch, r.first)
		v := logs.Get(k)
		if v == nil {
			continue
		}
		pl, err := decodePlace(k, v)
		if err != nil {
			return nil, err
		}
		if pl.group == g.number && pl.index == i {
			pl.tags = bytes.Clone(pl.tags) // they lie on a page that changes
			moves = append(moves, move{k, pl})
		}
	}
	return moves, nil
}
