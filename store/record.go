package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"unsafe"

	"tidemark/mutlog"
)

// The record of a batch
//
//	u32     CRC-32C of all that follows, up to the entries
//	u32     CRC-32C of the entries
//	16      prefix of the user
//	u64     first timestamp
//	u8      flags: 1 a client, 2 a key, 4 the name of the user, in the first batch of a log
//	uvarint number of entries n
//	uvarint first timestamp - previous head
//	uvarint previous head - base
//	bytes   x-client-id, Idempotency-Key, name of the user, as the flags say
//	n × u32 tags (see place)
//	n × entry:
//	  u8      flags, see below
//	  uvarint timestamp - that of the mutation before it, if there is one
//	  uvarint timestamp - birth, if that is another
//	  bytes   resource, resourceId; data, state, as the flags say
//
// "bytes" is a uvarint length and the bytes. The timestamps of the entries are
// consecutive. A record says itself whose it is and where it belongs, so that
// places can be found anew, and never lead to another's data unnoticed.
const (
	batchClient = 1 << iota
	batchKey
	batchName
)

const recordHeader = 8 + prefixSize + 8 // up to the flags

const (
	entryType     = 3 << 0 // 0 CREATE, 1 UPDATE, 2 DELETE
	entryAssigned = 1 << 2
	entryData     = 1 << 3
	entrySame     = 1 << 4 // the state is the data
	entryState    = 1 << 5 // the state is of its own; neither: a tombstone
	entryPrev     = 1 << 6
	entryBorn     = 1 << 7 // born earlier, so that it has a birth to tell
)

var types = [...]mutlog.Type{mutlog.Create, mutlog.Update, mutlog.Delete}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(parts ...[]byte) (crc uint32) {
	for _, p := range parts {
		crc = crc32.Update(crc, castagnoli, p)
	}
	return crc
}

// sealed writes the checksum of k and v into the first four bytes of v.
func sealed(k, v []byte) []byte {
	binary.BigEndian.PutUint32(v, checksum(k, v[4:]))
	return v
}

func isSealed(k, v []byte) bool {
	return len(v) >= 4 && binary.BigEndian.Uint32(v) == checksum(k, v[4:])
}

// record is a batch as it lies in the file; its slices alias the file and are
// valid as long as the transaction.
type record struct {
	user     prefix
	first    mutlog.Timestamp
	n        int
	base     mutlog.Timestamp
	previous mutlog.Timestamp
	client   []byte
	key      []byte
	name     []byte
	tags     []byte
	crc      uint32
	entries  []byte
}

func (r *record) size() int { return len(r.tags) + len(r.entries) }

func (r *record) corrupt(what string) error {
	return fmt.Errorf("%w: %s of batch %d", mutlog.ErrCorrupt, what, r.first)
}

// place returns where r is, if that is at index in a group.
func (r *record) place(group uint64, index int) place {
	return place{first: r.first, n: r.n, group: group, index: index, tags: bytes.Clone(r.tags),
		apart: len(r.key) > 0 || len(r.name) > 0 || r.base != r.previous}
}

// encodeRecord returns the record of b, and where its tags are in it.
func encodeRecord(p prefix, name mutlog.User, b *mutlog.Batch) (v, tags []byte) {
	size := recordHeader + 64 + len(b.Client) + len(b.Key) + len(name)
	for i := range b.Entries {
		e := &b.Entries[i]
		size += 32 + len(e.Resource) + len(e.ResourceID) + len(e.Data) + len(e.State)
	}
	v = make([]byte, recordHeader, size)
	copy(v[8:], p[:])
	binary.BigEndian.PutUint64(v[8+prefixSize:], uint64(b.First()))
	var flags byte
	if b.Client != "" {
		flags |= batchClient
	}
	if b.Key != "" {
		flags |= batchKey
	}
	if b.Previous == mutlog.Beginning {
		flags |= batchName
	}
	v = append(v, flags)
	v = binary.AppendUvarint(v, uint64(len(b.Entries)))
	v = binary.AppendUvarint(v, uint64(b.First()-b.Previous))
	v = binary.AppendUvarint(v, uint64(b.Previous-b.Base))
	if flags&batchClient != 0 {
		v = appendBytes(v, b.Client)
	}
	if flags&batchKey != 0 {
		v = appendBytes(v, b.Key)
	}
	if flags&batchName != 0 {
		v = appendBytes(v, name)
	}
	header := len(v)
	for i := range b.Entries {
		h := hashRef(b.Entries[i].Resource, b.Entries[i].ResourceID)
		v = append(v, h[:4]...)
	}
	entries := len(v)
	for i := range b.Entries {
		v = appendEntry(v, &b.Entries[i])
	}
	binary.BigEndian.PutUint32(v[4:], checksum(v[entries:]))
	binary.BigEndian.PutUint32(v, checksum(v[4:entries]))
	return v, v[header:entries:entries]
}

func appendEntry(v []byte, e *mutlog.Entry) []byte {
	var flags byte
	for i, t := range types {
		if e.Type == t {
			flags = byte(i)
		}
	}
	if e.Assigned {
		flags |= entryAssigned
	}
	if e.Data != nil {
		flags |= entryData
	}
	switch {
	case e.State == nil:
	case bytes.Equal(e.State, e.Data):
		flags |= entrySame
	default:
		flags |= entryState
	}
	if e.Prev != mutlog.Beginning {
		flags |= entryPrev
	}
	if e.Live() && e.Born != e.Timestamp {
		flags |= entryBorn
	}
	v = append(v, flags)
	if flags&entryPrev != 0 {
		v = binary.AppendUvarint(v, uint64(e.Timestamp-e.Prev))
	}
	if flags&entryBorn != 0 {
		v = binary.AppendUvarint(v, uint64(e.Timestamp-e.Born))
	}
	v = appendBytes(v, e.Resource)
	v = appendBytes(v, e.ResourceID)
	if flags&entryData != 0 {
		v = appendBytes(v, e.Data)
	}
	if flags&entryState != 0 {
		v = appendBytes(v, e.State)
	}
	return v
}

func appendBytes[T ~string | []byte](v []byte, b T) []byte {
	return append(binary.AppendUvarint(v, uint64(len(b))), b...)
}

// parseRecord reads all of a record but its entries, and verifies that part.
func parseRecord(v []byte) (r record, err error) {
	if len(v) < recordHeader {
		return r, r.corrupt("the size")
	}
	r.user = prefix(v[8:])
	r.first = mutlog.Timestamp(binary.BigEndian.Uint64(v[8+prefixSize:]))
	d := decoder{b: v[recordHeader:]}
	flags := d.byte()
	n := d.uvarint()
	r.previous = r.first - mutlog.Timestamp(d.uvarint())
	r.base = r.previous - mutlog.Timestamp(d.uvarint())
	if flags&batchClient != 0 {
		r.client = d.bytes()
	}
	if flags&batchKey != 0 {
		r.key = d.bytes()
	}
	if flags&batchName != 0 {
		r.name = d.bytes()
	}
	if d.failed || n < 1 || n > uint64(len(d.b)/4) {
		return r, r.corrupt("the head")
	}
	r.n = int(n)
	r.tags, r.entries = d.b[:4*r.n], d.b[4*r.n:]
	r.crc = binary.BigEndian.Uint32(v[4:])
	if binary.BigEndian.Uint32(v) != checksum(v[4:len(v)-len(r.entries)]) {
		return r, r.corrupt("the checksum of the head")
	}
	return r, nil
}

// batch returns the batch, in memory of its own.
func (r *record) batch() (*mutlog.Batch, error) {
	entries, err := r.appendEntries(make([]mutlog.Entry, 0, r.n))
	return &mutlog.Batch{Base: r.base, Previous: r.previous, Client: string(r.client), Key: string(r.key), Entries: entries}, err
}

// appendEntries appends the entries to dst, in memory of their own.
func (r *record) appendEntries(dst []mutlog.Entry) ([]mutlog.Entry, error) {
	own := *r
	own.entries = bytes.Clone(r.entries)
	return own.borrowEntries(dst)
}

// borrowEntries appends the entries to dst; they alias the file.
func (r *record) borrowEntries(dst []mutlog.Entry) ([]mutlog.Entry, error) {
	if checksum(r.entries) != r.crc {
		return dst, r.corrupt("the checksum")
	}
	d := decoder{b: r.entries}
	for i := range r.n {
		dst = append(dst, mutlog.Entry{})
		d.entry(&dst[len(dst)-1], r.first+mutlog.Timestamp(i))
	}
	if d.failed || len(d.b) > 0 {
		return dst, r.corrupt("an entry")
	}
	return dst, nil
}

// entry returns the entry at index i, which aliases the file.
func (r *record) entry(i int) (e mutlog.Entry, err error) {
	if checksum(r.entries) != r.crc {
		return e, r.corrupt("the checksum")
	}
	d := decoder{b: r.entries}
	for j := range i + 1 {
		e = mutlog.Entry{}
		d.entry(&e, r.first+mutlog.Timestamp(j))
	}
	if d.failed {
		return e, r.corrupt("an entry")
	}
	return e, nil
}

// decoder reads the parts of a record off its front. After a fault it gives
// zero values.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) entry(e *mutlog.Entry, t mutlog.Timestamp) {
	flags := d.byte()
	e.Timestamp = t
	e.Prev, e.Born = mutlog.Beginning, mutlog.Beginning
	if flags&entryPrev != 0 {
		e.Prev = t - mutlog.Timestamp(d.uvarint())
	}
	if flags&(entrySame|entryState) != 0 {
		e.Born = t
	}
	if flags&entryBorn != 0 {
		e.Born = t - mutlog.Timestamp(d.uvarint())
	}
	if i := int(flags & entryType); i < len(types) {
		e.Type = types[i]
	} else {
		d.failed = true
	}
	e.Assigned = flags&entryAssigned != 0
	e.Resource = text(d.bytes())
	e.ResourceID = text(d.bytes())
	if flags&entryData != 0 {
		e.Data = d.bytes()
	}
	switch {
	case flags&entrySame != 0:
		e.State = e.Data
	case flags&entryState != 0:
		e.State = d.bytes()
	}
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.failed = true
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint() uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		d.failed = true
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) bytes() []byte {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.failed = true
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

// text returns b as a string without copying it. b is part of the file, or of
// the copy of a record that was made for the caller, and nobody writes to those.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
