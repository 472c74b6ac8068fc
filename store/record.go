package store

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"sort"
	"unsafe"

	"tidemark/mutlog"
)

// The record of a batch
//
//	u32     CRC-32C of all that follows, up to the entries
//	16      prefix of the user
//	u64     first timestamp
//	u8      flags: 1 a client, 2 a key, 4 the name of the user, in the first batch of
//	        a log, 8 counts of what is live, 16 what pruning has left of batches
//	uvarint number of entries n
//	uvarint first timestamp - previous head
//	uvarint previous head - base
//	bytes   x-client-id, Idempotency-Key, name of the user, as the flags say
//	live    if the flags say so: uvarint number of kinds; for each, in order, bytes
//	        its name, uvarint resources, uvarint bytes of their data
//	n × u32 tags (see place)
//	n × { u32 end of the entry, from the start of the first; u32 its CRC-32C }, so
//	        that one entry is found and verified without the others; with u64
//	        timestamp of the entry in what pruning has left
//	n × entry:
//	  u8      flags, see below
//	  uvarint timestamp - that of the mutation before it, if there is one
//	  uvarint timestamp - birth, if that is another
//	  bytes   resource, resourceId; data, state, as the flags say
//
// "bytes" is a uvarint length and the bytes. The timestamps of the entries are
// consecutive, but for what pruning has left: that record stands for several
// batches, the first of which followed its previous head, and is no receipt. A
// record says itself whose it is and where it belongs, so that
// places can be found anew, and never lead to another's data unnoticed.
const (
	batchClient = 1 << iota
	batchKey
	batchName
	batchLive
	batchPruned
)

const recordHeader = 4 + prefixSize + 8 // up to the flags

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
	live     map[string]mutlog.Count
	pruned   bool
	tags     []byte
	table    []byte
	entries  []byte
}

func (r *record) size() int { return len(r.tags) + len(r.entries) }

// row returns what the table says of the entry at index i.
func (r *record) row(i int) []byte {
	size := rowSize(r.pruned)
	return r.table[i*size:][:size]
}

func rowSize(pruned bool) int {
	if pruned {
		return 16
	}
	return 8
}

// timestamp returns the timestamp of the entry at index i.
func (r *record) timestamp(i int) mutlog.Timestamp {
	if r.pruned {
		return mutlog.Timestamp(binary.BigEndian.Uint64(r.row(i)[8:]))
	}
	return r.first + mutlog.Timestamp(i)
}

// find returns the index of the entry with the timestamp t.
func (r *record) find(t mutlog.Timestamp) (i int, found bool) {
	i = sort.Search(r.n, func(i int) bool { return r.timestamp(i) >= t })
	return i, i < r.n && r.timestamp(i) == t
}

func (r *record) corrupt(what string) error {
	return fmt.Errorf("%w: %s of batch %d", mutlog.ErrCorrupt, what, r.first)
}

// place returns where r is, if that is at index in a group.
func (r *record) place(group uint64, index int) place {
	return place{first: r.first, last: r.timestamp(r.n - 1), n: r.n, group: group, index: index, pruned: r.pruned, tags: bytes.Clone(r.tags),
		apart: len(r.key) > 0 || len(r.name) > 0 || r.base != r.previous}
}

// encodeRecord returns the record of b, and where its tags are in it. name is for
// the first batch of a log. pruned says that b is what pruning has left. known,
// which may be nil, spares hashing what was searched for.
func encodeRecord(p prefix, name mutlog.User, b *mutlog.Batch, pruned bool, known *hashes) (v, tags []byte) {
	size := recordHeader + 64 + len(b.Client) + len(b.Key) + len(name)
	for i := range b.Entries {
		e := &b.Entries[i]
		size += 52 + len(e.Resource) + len(e.ResourceID) + len(e.Data) + len(e.State)
	}
	v = make([]byte, recordHeader, size)
	copy(v[4:], p[:])
	binary.BigEndian.PutUint64(v[4+prefixSize:], uint64(b.First()))
	var flags byte
	if b.Client != "" {
		flags |= batchClient
	}
	if b.Key != "" {
		flags |= batchKey
	}
	if name != "" {
		flags |= batchName
	}
	if b.Live != nil {
		flags |= batchLive
	}
	if pruned {
		flags |= batchPruned
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
	if flags&batchLive != 0 {
		v = appendLive(v, b.Live)
	}
	header := len(v)
	for i := range b.Entries {
		h := known.at(i, b.Entries[i].Ref())
		v = append(v, h[:4]...)
	}
	table := len(v)
	v = append(v, make([]byte, rowSize(pruned)*len(b.Entries))...)
	entries := len(v)
	for i := range b.Entries {
		start := len(v)
		v = appendEntry(v, &b.Entries[i])
		row := v[table+rowSize(pruned)*i:]
		binary.BigEndian.PutUint32(row, uint32(len(v)-entries))
		binary.BigEndian.PutUint32(row[4:], checksum(v[start:]))
		if pruned {
			binary.BigEndian.PutUint64(row[8:], uint64(b.Entries[i].Timestamp))
		}
	}
	binary.BigEndian.PutUint32(v, checksum(v[4:entries]))
	return v, v[header:table:table]
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

func appendLive(v []byte, live map[string]mutlog.Count) []byte {
	v = binary.AppendUvarint(v, uint64(len(live)))
	for _, kind := range slices.Sorted(maps.Keys(live)) {
		v = appendBytes(v, kind)
		v = binary.AppendUvarint(v, uint64(live[kind].Resources))
		v = binary.AppendUvarint(v, uint64(live[kind].Bytes))
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
	r.user = prefix(v[4:])
	r.first = mutlog.Timestamp(binary.BigEndian.Uint64(v[4+prefixSize:]))
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
	if flags&batchLive != 0 {
		r.live = d.live()
	}
	r.pruned = flags&batchPruned != 0
	row := 4 + rowSize(r.pruned)
	if d.failed || n < 1 || n > uint64(len(d.b)/row) {
		return r, r.corrupt("the head")
	}
	r.n = int(n)
	r.tags, r.table, r.entries = d.b[:4*r.n], d.b[4*r.n:row*r.n], d.b[row*r.n:]
	if uint64(binary.BigEndian.Uint32(r.row(r.n-1))) != uint64(len(r.entries)) {
		return r, r.corrupt("the size")
	}
	if binary.BigEndian.Uint32(v) != checksum(v[4:len(v)-len(r.entries)]) {
		return r, r.corrupt("the checksum of the head")
	}
	return r, nil
}

// batch returns the batch, in memory of its own.
func (r *record) batch() (*mutlog.Batch, error) {
	entries, err := r.appendEntries(make([]mutlog.Entry, 0, r.n))
	return &mutlog.Batch{Base: r.base, Previous: r.previous, Client: string(r.client), Key: string(r.key), Live: r.live, Entries: entries}, err
}

// appendEntries appends the entries to dst, in memory of their own.
func (r *record) appendEntries(dst []mutlog.Entry) ([]mutlog.Entry, error) {
	own := *r
	own.entries = bytes.Clone(r.entries)
	return own.borrowEntries(dst)
}

// borrowEntries appends the entries to dst; they alias the file.
func (r *record) borrowEntries(dst []mutlog.Entry) ([]mutlog.Entry, error) {
	for i := range r.n {
		dst = append(dst, mutlog.Entry{})
		if err := r.readEntry(i, &dst[len(dst)-1]); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// entry returns the entry at index i, which aliases the file.
func (r *record) entry(i int) (e mutlog.Entry, err error) {
	err = r.readEntry(i, &e)
	return e, err
}

func (r *record) readEntry(i int, e *mutlog.Entry) error {
	row := r.row(i)
	start, end := uint32(0), binary.BigEndian.Uint32(row)
	if i > 0 {
		start = binary.BigEndian.Uint32(r.row(i - 1))
	}
	if start > end || uint64(end) > uint64(len(r.entries)) {
		return r.corrupt("the table")
	}
	d := decoder{b: r.entries[start:end:end]}
	if checksum(d.b) != binary.BigEndian.Uint32(row[4:]) {
		return r.corrupt("the checksum of an entry")
	}
	if d.entry(e, r.timestamp(i)); d.failed || len(d.b) > 0 {
		return r.corrupt("an entry")
	}
	return nil
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

func (d *decoder) live() map[string]mutlog.Count {
	n := d.uvarint()
	live := make(map[string]mutlog.Count, min(n, 64))
	for ; n > 0 && !d.failed; n-- {
		kind := string(d.bytes())
		live[kind] = mutlog.Count{Resources: int64(d.uvarint()), Bytes: int64(d.uvarint())}
	}
	return live
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
