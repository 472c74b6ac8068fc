package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"tidemark/mutlog"
)

// Two resources whose hashes begin with the same 7 bytes, which are what the key
// of a chunk holds. A client can find such a pair in minutes.
const oneBound, sameBound = "00811576f92152", "b5f36c93bb51b9"

// A chunk is never split between hashes that the keys of chunks do not tell
// apart: the lower one would not be found again, and its next UPDATE would start
// from nothing.
func TestIndexKeepsEqualBoundsTogether(t *testing.T) {
	pair := []hash{hashRef("NOTE", oneBound), hashRef("NOTE", sameBound)}
	slices.SortFunc(pair, func(a, b hash) int { return bytes.Compare(a[:], b[:]) })
	if pair[0].bound() != pair[1].bound() {
		t.Fatal("the pair is none")
	}
	for below := range chunkEntries {
		updates := []search{}
		for i := range below { // as many below the pair
			var h hash
			binary.BigEndian.PutUint64(h[:], uint64(i+1))
			updates = append(updates, search{hash: h, found: mutlog.Timestamp(i + 1)})
		}
		updates = append(updates, search{hash: pair[0], found: 1000}, search{hash: pair[1], found: 1001})
		for i := range 3 * chunkEntries { // and more above
			h := pair[1]
			binary.BigEndian.PutUint64(h[:], binary.BigEndian.Uint64(h[:])+uint64(i+1)<<8)
			updates = append(updates, search{hash: h, found: mutlog.Timestamp(2000 + i)})
		}
		tx := &boltTx{prefix: prefixOf("alice")}
		total := 0
		for i, kv := range tx.appendChunk(nil, chunk{upper: 1 << 56}, updates) {
			c := chunk{lower: keyNumber(kv.key), entries: kv.value[4:]}
			total += c.len()
			if first := hash(c.hash(0)); i > 0 && first.bound() != c.lower {
				t.Fatalf("%d below: a chunk begins with another hash than its key says", below)
			}
			if found := c.find(pair[0]); (found == 1000) != (c.find(pair[1]) == 1001) {
				t.Fatalf("%d below: the pair was split", below)
			}
		}
		if total != len(updates) {
			t.Fatalf("%d below: %d of %d entries are left", below, total, len(updates))
		}
	}
}

// Rules 10 and 15: a pull of an old state, as the repeat of a merged push makes,
// takes bounded steps in a transaction and still ends.
func TestChangesFarBack(t *testing.T) {
	s := openBoltTest(t, BoltOptions{FoldBatches: 1, NoSync: true})
	var second mutlog.Timestamp
	const resources, rounds = 60, 120
	for round := range rounds {
		var notes []mutlog.Mutation
		for i := range resources {
			notes = append(notes, note(mutlog.Create, fmt.Sprint("note-", i), fmt.Sprintf(`{"round":%d}`, round)))
		}
		head := push(t, s, "alice", notes...)
		if round == 1 {
			second = head
		}
	}
	calls, found := 0, 0
	for upTo := mutlog.Beginning; upTo < second; calls++ {
		err := s.View(context.Background(), "alice", func(tx mutlog.Reader) error {
			// A stretch that ends before until has to ask the index.
			changes, next, err := tx.Changes(upTo, second, resources)
			found, upTo = found+len(changes), next
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found != resources || calls < 3 {
		t.Errorf("%d changes in %d stretches", found, calls)
	}
}
