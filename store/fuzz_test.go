package store

// The corpora in testdata/fuzz are from runs of some minutes each, and every `go test` plays them;
// `go test -fuzz=FuzzRecordBytes ./store` goes on from there.

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tidemark/mutlog"
)

// FuzzRecord: a batch reads back as it was written, and no bit of it can change unnoticed.
func FuzzRecord(f *testing.F) {
	f.Add([]byte{3, 0x1c, 0, 1, 5, 9, 0x70}, []byte(`{"a":1}`), "phone", "key", uint64(1), uint64(0), uint(77))
	f.Add([]byte{1, 0xff}, []byte{}, "", "", uint64(1<<52), uint64(1<<51), uint(8))
	f.Fuzz(func(t *testing.T, shape, data []byte, client, key string, first, back uint64, bit uint) {
		b := batchOf(shape, data, client, key, first, back)
		var user mutlog.User = "fuzz"
		pruned := bit&8 != 0
		if pruned {
			for i := range b.Entries {
				b.Entries[i].Timestamp += mutlog.Timestamp(i * int(bit%1000))
			}
		}
		v, tags := encodeRecord(prefixOf(user), user, b, pruned, nil)
		r, err := parseRecord(v)
		if err != nil {
			t.Fatalf("%+v: %v", b, err)
		}
		got, err := r.batch()
		if err != nil {
			t.Fatalf("%+v: %v", b, err)
		}
		if diff := cmp.Diff(b, got); diff != "" || !bytes.Equal(r.tags, tags) || r.user != prefixOf(user) {
			t.Fatalf("(- written, + read)\n%s", diff)
		}
		for i := range b.Entries {
			e, err := r.entry(i)
			if diff := cmp.Diff(b.Entries[i], e); err != nil || diff != "" {
				t.Fatalf("entry %d: %v (- written, + read)\n%s", i, err, diff)
			}
		}
		for i := range v {
			v[i] ^= 1 << (bit % 8)
			if r, err = parseRecord(v); err == nil {
				wrong := 0
				for i := range r.n {
					if _, err := r.entry(i); errors.Is(err, mutlog.ErrCorrupt) {
						wrong++
					}
				}
				if wrong != 1 {
					t.Fatalf("a bit of byte %d was changed, and %d entries cannot be read", i, wrong)
				}
				_, err = r.batch()
			}
			if !errors.Is(err, mutlog.ErrCorrupt) {
				t.Fatalf("a bit of byte %d was changed, and reading gives %v", i, err)
			}
			v[i] ^= 1 << (bit % 8)
		}
	})
}

// batchOf makes a batch whose shape the bytes say: the entries' flags and sizes.
func batchOf(shape, data []byte, client, key string, first, back uint64) *mutlog.Batch {
	if len(client) > 255 || len(key) > 255 {
		client, key = "", ""
	}
	at := 2 + mutlog.Timestamp(first%(1<<52))
	previous := at - 1 - mutlog.Timestamp(back%uint64(at))
	if previous <= 0 {
		previous = mutlog.Beginning
	}
	b := &mutlog.Batch{Previous: previous, Base: previous, Client: client, Key: key}
	if first%5 < 2 {
		b.Live = map[string]mutlog.Count{}
		for i := range back % 3 {
			b.Live[string(rune('A'+i))] = mutlog.Count{Resources: int64(i), Bytes: int64(first % (1 << 40))}
		}
	}
	if back%3 == 0 && previous > 0 {
		b.Base = previous - mutlog.Timestamp(back)%previous
	}
	for i, s := range append(shape, 0) {
		t := at + mutlog.Timestamp(i)
		e := mutlog.Entry{Prev: mutlog.Beginning, Born: t}
		e.Timestamp = t
		e.Type = types[int(s)%len(types)]
		e.Resource, e.ResourceID = "R"+string('A'+rune(s%26)), string(rune('a'+s%20))+"é"
		e.Assigned = s&4 != 0
		if s&8 != 0 {
			e.Prev = t - 1 - mutlog.Timestamp(s)%(t-1)
		}
		if e.Type == mutlog.Delete {
			e.Born = mutlog.Beginning
		} else {
			e.Data = append([]byte("{"), data[:min(len(data), int(s))]...)
			e.State = e.Data
			if s&16 != 0 {
				e.State = append([]byte("}"), data...)
			}
			if s&32 != 0 {
				e.Born = 1 + mutlog.Timestamp(s)%t
			}
		}
		b.Entries = append(b.Entries, e)
	}
	return b
}

// FuzzRecordBytes: whatever lies in the file, reading it does not panic, and takes memory in proportion to it. The
// checksums are made right, because a fuzzer would not find them.
func FuzzRecordBytes(f *testing.F) {
	for _, shape := range [][]byte{{0}, {1, 2, 3}, {0xff, 0x7f, 0x3c, 0x10}} {
		v, _ := encodeRecord(prefix{1}, "u", batchOf(shape, []byte(`{"a":[1,2,3]}`), "c", "k", 1_700_000_000_000, 3), false, nil)
		f.Add(v)
	}
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{0xff}, 64))
	f.Fuzz(func(t *testing.T, v []byte) {
		read := func() {
			r, err := parseRecord(v)
			if err == nil {
				var b *mutlog.Batch
				if b, err = r.batch(); err == nil && len(b.Entries) != r.n {
					t.Fatalf("%d entries of %d", len(b.Entries), r.n)
				}
				for i := range min(r.n, 3) {
					if _, err := r.entry(i); err != nil && !errors.Is(err, mutlog.ErrCorrupt) {
						t.Fatal(err)
					}
				}
			}
			if err != nil && !errors.Is(err, mutlog.ErrCorrupt) {
				t.Fatal(err)
			}
		}
		read()
		if len(v) < recordHeader {
			return
		}
		v = bytes.Clone(v)
		// Once more with checksums that fit wherever the head ends.
		for end := recordHeader; end <= min(len(v), recordHeader+300); end++ {
			binary.BigEndian.PutUint32(v[4:], checksum(v[end:]))
			binary.BigEndian.PutUint32(v, checksum(v[4:end]))
			read()
		}
	})
}
