package store

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"tidemark/mutlog"
)

// Layout of a bbolt store, format 1
//
// All logs are in the bucket "logs". A key begins with 16 bytes that name the
// user, so that all that one user has stands together: a push changes one leaf
// of the B+tree, or few, a pull reads neighbours, and an erasure is a range.
//
//	key                                                     value
//	┌──────────────┬────┬───────────────────┐
//	│ user         │ 00 │ 0                 │               CRC, name of the user
//	│ 16 bytes of  ├────┼───────────────────┤
//	│ its SHA-256  │ 01 │ first timestamp   │               one batch (record.go)
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
// bucket "tidemark" holds the version of the format and the id of the store.
//
// A batch is one record, and all that a push writes but for a settling of the
// index (index.go), a receipt if it has a key, and the name of a new user. The
// head is the last key of kind 01; a push that comes again without a key is
// found by its base, because the batch behind a base is the one pushed on it.
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

func encodeUser(k []byte, user mutlog.User) []byte {
	return sealed(k, append(make([]byte, 4, 4+len(user)), user...))
}

func decodeUser(k, v []byte) (mutlog.User, error) {
	if len(k) != keySize || k[prefixSize] != kindUser || !isSealed(k, v) {
		return "", fmt.Errorf("%w: the name of the user at key %x", mutlog.ErrCorrupt, k)
	}
	return mutlog.User(v[4:]), nil
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
