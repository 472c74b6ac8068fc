package store

import (
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
)

// A group is the batches that one transaction brought, of whatever users
//
//	u32          CRC-32C of all up to the batches
//	u32          number of batches n
//	n × u32      end of each batch, from the start of the first
//	n × batch    records (record.go)
//
// Groups are numbered from 1. Each is a bucket in the bucket "groups", named by its
// number, that holds one value: so bbolt gives a large group a run of pages of
// its own, which is written once and full, and puts a small one beside others.
var groupValue = []byte("g")

func groupKey(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// encodeGroup returns the group of the batches whose records are given.
func encodeGroup(records [][]byte) []byte {
	size := 8 + 4*len(records)
	for _, r := range records {
		size += len(r)
	}
	v := make([]byte, 8, size)
	binary.BigEndian.PutUint32(v[4:], uint32(len(records)))
	end := 0
	for _, r := range records {
		end += len(r)
		v = binary.BigEndian.AppendUint32(v, uint32(end))
	}
	binary.BigEndian.PutUint32(v, checksum(v[4:]))
	for _, r := range records {
		v = append(v, r...)
	}
	return v
}

// putGroup writes a group as the newest.
func putGroup(groups *bolt.Bucket, n uint64, records [][]byte) error {
	groups.FillPercent = 0.95 // it only grows at its right edge
	b, err := groups.CreateBucket(groupKey(n))
	if err != nil {
		return err
	}
	return b.Put(groupValue, encodeGroup(records))
}

// group is a group as it lies in the file; it is valid as long as the
// transaction.
type group struct {
	number  uint64
	ends    []byte
	batches []byte
}

func (g *group) len() int { return len(g.ends) / 4 }

// readGroup returns the group with a number.
func readGroup(groups *bolt.Bucket, number uint64) (group, error) {
	b := groups.Bucket(groupKey(number))
	if b == nil {
		return group{}, fmt.Errorf("%w: there is no group %d", mutlog.ErrCorrupt, number)
	}
	v := b.Get(groupValue)
	if len(v) < 8 {
		return group{}, fmt.Errorf("%w: group %d", mutlog.ErrCorrupt, number)
	}
	n := uint64(binary.BigEndian.Uint32(v[4:]))
	if n > uint64(len(v)-8)/4 || binary.BigEndian.Uint32(v) != checksum(v[4:8+4*n]) {
		return group{}, fmt.Errorf("%w: the head of group %d", mutlog.ErrCorrupt, number)
	}
	return group{number: number, ends: v[8 : 8+4*n], batches: v[8+4*n:]}, nil
}

// bounds returns where the batch at index is.
func (g *group) bounds(index int) (start, end uint32) {
	if index > 0 {
		start = binary.BigEndian.Uint32(g.ends[4*(index-1):])
	}
	return start, binary.BigEndian.Uint32(g.ends[4*index:])
}

// size returns how many bytes the batch at index has, and raw those of one that
// record has returned.
func (g *group) size(index int) int {
	start, end := g.bounds(index)
	return int(end) - int(start)
}

func (g *group) raw(index int) []byte {
	start, end := g.bounds(index)
	return g.batches[start:end]
}

// record returns the record of the batch at index.
func (g *group) record(index int) (record, error) {
	if index < 0 || index >= g.len() {
		return record{}, fmt.Errorf("%w: group %d has no batch %d", mutlog.ErrCorrupt, g.number, index)
	}
	start, end := g.bounds(index)
	if start > end || uint64(end) > uint64(len(g.batches)) {
		return record{}, fmt.Errorf("%w: batch %d of group %d", mutlog.ErrCorrupt, index, g.number)
	}
	return parseRecord(g.batches[start:end])
}
