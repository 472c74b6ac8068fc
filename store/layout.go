package store

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"tidemark/mutlog"
)

// Layout of a bbolt store, format 1
//
// What a push costs is what it changes in B+trees: a leaf for each place that it
// touches, and the branches above. So a push touches one place, which it shares
// with all pushes that wait together: their batches are one group (group.go), a
// page run of its own at the right edge of the bucket "groups". Where the batches
// of a user are is kept in memory at first (recent.go) and brought into the
// bucket "logs" later, for thousands of batches at once in the order of keys.
//
// In the bucket "logs" a key begins with 16 bytes that name the user, so that
// all that is known of one user stands together, and an erasure is a range.
//
//	key                                                     value
//	┌──────────────┬────┬───────────────────┐
//	│ user         │ 00 │ 0                 │               CRC, bounds and name of the user (bounds.go)
//	│ 16 bytes of  ├────┼───────────────────┤
//	│ its SHA-256  │ 01 │ first timestamp   │               where a batch is (place)
//	│              ├────┼───────────────────┤
//	│              │ 02 │ lowest hash       │               a chunk of the index (index.go)
//	│              ├────┼───────────────────┴───────────┐
//	│              │ 03 │ 23 bytes of SHA-256 of a key  │   CRC, first timestamp of its batch
//	│              ├────┼───────────────────┬───────────┴─┐
//	│              │ 04 │ base + 1          │ 8: first    │ empty: a batch merged behind its base
//	└──────────────┴────┴───────────────────┴─────────────┘
//	  0             16   17                  24
//
// Numbers are big-endian, timestamps of 7 bytes (they stay below 2^53), so that
// the order of keys is that of time. CRCs are CRC-32C over key and value. The
// bucket "tidemark" holds the version of the format, the id of the store, what
// its newest transaction left (state.go), up to which group the bucket "logs"
// has been brought (folded), and when it was restored (fences, bounds.go). The
// bucket "records" is drawn in records.go.
//
// The head of a log is that of its last place; a push that comes again without
// a key is found by its base, because the batch behind a base is the one pushed
// on it.
//
// What was tried, and dropped for it (pushes of 10 mutations by 64 devices, see
// docs/performance.md): a key for each mutation and each resource; one record
// per batch under the user's own keys, 8 to 18 KB written for a push of 2.5 KB,
// nearly three pages each; groups as plain values, which the four neighbours
// that share a leaf with each make five times as much to write.
const (
	kindUser    = 0x00
	kindBatch   = 0x01
	kindIndex   = 0x02
	kindReceipt = 0x03
	kindMerged  = 0x04

	prefixSize = 16
	keySize    = prefixSize + 8
)

// prefix begins all keys of one user.
type prefix [prefixSize]byte

func prefixOf(user mutlog.User) prefix {
	sum := sha256.Sum256([]byte(user))
	return prefix(sum[:prefixSize])
}

// increment makes p the next prefix; false if p was the last.
func (p *prefix) increment() bool {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i]++; p[i] != 0 {
			return true
		}
	}
	return false
}

// key returns the key of kind with a number below 2^56.
func (p prefix) key(kind byte, n mutlog.Timestamp) []byte {
	k := make([]byte, keySize, keySize+8)
	copy(k, p[:])
	binary.BigEndian.PutUint64(k[prefixSize:], uint64(n))
	k[prefixSize] = kind
	return k
}

// receiptKey returns the key of the receipt for an Idempotency-Key.
func (p prefix) receiptKey(key string) []byte {
	sum := sha256.Sum256([]byte(key))
	k := append(make([]byte, 0, prefixSize+24), p[:]...)
	return append(append(k, kindReceipt), sum[:23]...)
}

// mergedKey returns the key that lists the batch at first under its base.
func (p prefix) mergedKey(base, first mutlog.Timestamp) []byte {
	return binary.BigEndian.AppendUint64(p.key(kindMerged, base+1), uint64(first))
}

// mergedBatch returns the first timestamp of the batch that k lists.
func mergedBatch(k []byte) mutlog.Timestamp {
	return mutlog.Timestamp(binary.BigEndian.Uint64(k[keySize:]))
}

// has tells whether k is a key of this user and kind.
func (p *prefix) has(k []byte, kind byte) bool {
	return len(k) > prefixSize && prefix(k[:prefixSize]) == *p && k[prefixSize] == kind
}

// keyNumber returns the number in a key that was made by prefix.key.
func keyNumber(k []byte) mutlog.Timestamp {
	return mutlog.Timestamp(binary.BigEndian.Uint64(k[prefixSize:]) &^ (0xff << 56))
}

func encodeReceipt(k []byte, first mutlog.Timestamp) []byte {
	return sealed(k, binary.BigEndian.AppendUint64(make([]byte, 4, 12), uint64(first)))
}

func decodeReceipt(k, v []byte) (mutlog.Timestamp, error) {
	if len(v) != 12 || !isSealed(k, v) {
		return 0, fmt.Errorf("%w: the receipt at key %x", mutlog.ErrCorrupt, k)
	}
	return mutlog.Timestamp(binary.BigEndian.Uint64(v[4:])), nil
}

// place says where a batch is. Its value in the bucket "logs" is
//
//	u32     CRC-32C of the key and all that follows
//	u8      flags: 1 the index covers all up to this batch, 2 the log has bounds, in
//	        its last folded place at least, 4 the timestamps are not consecutive
//	uvarint group, index in the group, number of mutations n
//	uvarint last timestamp - first, if they are not consecutive
//	n × u32 tags: the first bytes of the hash of each mutation's resource, so that
//	        a search for a resource goes through places and leaves batches alone
type place struct {
	first   mutlog.Timestamp
	last    mutlog.Timestamp
	n       int
	group   uint64
	index   int
	settled bool
	bounded bool
	pruned  bool // it leads to what pruning has left: the timestamps are not consecutive
	tags    []byte

	// apart tells that the batch needs more keys than that of its place: it
	// begins a log, has a key or was merged. Only a recent place knows.
	apart bool
}

func (pl *place) head() mutlog.Timestamp { return pl.last }
func (pl *place) tag(i int) uint32       { return binary.BigEndian.Uint32(pl.tags[4*i:]) }

const (
	placeSettled = 1 << iota
	placeBounded
	placePruned
)

func encodePlace(k []byte, pl *place) []byte {
	v := make([]byte, 5, 5+4*binary.MaxVarintLen64+len(pl.tags))
	if pl.settled {
		v[4] |= placeSettled
	}
	if pl.bounded {
		v[4] |= placeBounded
	}
	if pl.pruned {
		v[4] |= placePruned
	}
	v = binary.AppendUvarint(v, pl.group)
	v = binary.AppendUvarint(v, uint64(pl.index))
	v = binary.AppendUvarint(v, uint64(pl.n))
	if pl.pruned {
		v = binary.AppendUvarint(v, uint64(pl.last-pl.first))
	}
	return sealed(k, append(v, pl.tags...))
}

// decodePlace reads a place; its tags alias v.
func decodePlace(k, v []byte) (place, error) {
	if len(k) != keySize || !isSealed(k, v) {
		return place{}, fmt.Errorf("%w: the place of a batch at key %x", mutlog.ErrCorrupt, k)
	}
	d := decoder{b: v[4:]}
	flags := d.byte()
	pl := place{first: keyNumber(k), settled: flags&placeSettled != 0, bounded: flags&placeBounded != 0, pruned: flags&placePruned != 0}
	pl.group, pl.index, pl.n = d.uvarint(), int(d.uvarint()), int(d.uvarint())
	pl.last = pl.first + mutlog.Timestamp(pl.n) - 1
	if pl.pruned {
		pl.last = pl.first + mutlog.Timestamp(d.uvarint())
	}
	pl.tags = d.b
	if d.failed || pl.n < 1 || len(pl.tags) != 4*pl.n {
		return place{}, fmt.Errorf("%w: the place of a batch at key %x", mutlog.ErrCorrupt, k)
	}
	return pl, nil
}
