package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// put sets a record, or removes it.
func put(t testing.TB, s mutlog.Store, key mutlog.RecordKey, value []byte) {
	t.Helper()
	if err := s.UpdateRecord(t.Context(), key, func([]byte) ([]byte, error) { return value, nil }); err != nil {
		t.Fatal(err)
	}
}

// Records are found by key, kind and owner, like those of the reference, also
// after reopening, and are no part of any log.
func testRecords(t *testing.T, o *opener) {
	s, reference := o.open(), mutlogtest.NewStore()
	rnd := rand.New(rand.NewPCG(mutlogtest.Seed(t), 1))
	kinds := []string{"t", "to", "token", "device"}
	owners := []string{"", "a", "a b", "ab", "b", "é", "\x01", strings.Repeat("o", 255)}
	names := []string{"", "a", "\x00", "b\x00c", "日本", strings.Repeat("n", 600)}
	random := func() mutlog.RecordKey {
		return mutlog.RecordKey{Kind: kinds[rnd.IntN(len(kinds))], Owner: owners[rnd.IntN(len(owners))], Name: names[rnd.IntN(len(names))]}
	}
	compare := func() {
		t.Helper()
		for _, kind := range append(kinds, "none") {
			for _, owner := range append(owners, "none") {
				want := must[[]mutlog.Record](t)(mutlogtest.All(reference.Records(t.Context(), kind, owner)))
				same(t, fmt.Sprintf("records of kind %q, owner %q", kind, owner), want,
					must[[]mutlog.Record](t)(mutlogtest.All(s.Records(t.Context(), kind, owner))))
			}
		}
		same(t, "all records", must[[]mutlog.Record](t)(mutlogtest.All(reference.Records(t.Context(), "", ""))),
			must[[]mutlog.Record](t)(mutlogtest.All(s.Records(t.Context(), "", ""))))
		for range 50 {
			key := random()
			same(t, fmt.Sprintf("%q", key), must[[]byte](t)(reference.Record(t.Context(), key)), must[[]byte](t)(s.Record(t.Context(), key)))
		}
	}
	for range 3 {
		compare()
		for range 60 {
			key, value := random(), []byte(strings.Repeat("v", rnd.IntN(30)))
			if rnd.IntN(4) == 0 {
				value = nil
			}
			put(t, s, key, value)
			put(t, reference, key, value)
		}
		push(t, s, "alice", note(mutlog.Create, "a", `{}`))
		compare()
		s = o.reopen(s)
	}
	same(t, "users", map[mutlog.User]int{"alice": 1}, usersOf(t, s))

	// More than is read at once, and large ones.
	large := []byte(strings.Repeat("\x00\xff", 1<<19))
	for i := range 3 {
		put(t, s, mutlog.RecordKey{Kind: "large", Name: strconv.Itoa(i)}, large)
	}
	n := 0
	for r, err := range s.Records(t.Context(), "large", "") {
		if n++; err != nil || string(r.Value) != string(large) {
			t.Fatalf("record %q: %d bytes, %v", r.RecordKey, len(r.Value), err)
		}
		clear(r.Value) // it is the caller's
		put(t, s, r.RecordKey, nil)
	}
	same(t, "large records", 3, n)
	for _, key := range []mutlog.RecordKey{{}, {Kind: "a\x00b"}, {Kind: "a", Owner: "\x00"}, {Kind: "a", Name: strings.Repeat("n", 2000)}} {
		err := s.UpdateRecord(t.Context(), key, func([]byte) ([]byte, error) { return []byte{}, nil })
		if _, other := s.Record(t.Context(), key); err == nil || other == nil {
			t.Errorf("the key %q is taken", key)
		}
	}
	for range s.Records(t.Context(), "token", "") {
		break // the caller may stop
	}
}

// "It is atomic against every other UpdateRecord of the key …, and when fn
// fails, nothing changes and its error comes back unchanged."
func testRecordsAtomic(t *testing.T, o *opener) {
	s := o.open()
	keys := []mutlog.RecordKey{{Kind: "counter", Name: "a"}, {Kind: "counter", Name: "b"}}
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for i := range each {
				err := s.UpdateRecord(t.Context(), keys[i%2], func(old []byte) ([]byte, error) {
					n, _ := strconv.Atoi(string(old))
					clear(old) // it is its own
					return strconv.AppendInt(nil, int64(n+1), 10), nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	broken := errors.New("broken")
	for _, key := range keys {
		if err := s.UpdateRecord(t.Context(), key, func([]byte) ([]byte, error) { return nil, broken }); err != broken {
			t.Errorf("got %v", err)
		}
	}
	s = o.reopen(s)
	for _, key := range keys {
		same(t, key.Name, strconv.Itoa(writers*each/2), string(must[[]byte](t)(s.Record(t.Context(), key))))
	}
}

// Once a record is replaced nobody gets what it was, however many read it
// meanwhile: a token that was revoked must not let in any more.
func testRecordsNeverStale(t *testing.T, o *opener) {
	s := o.open()
	key := mutlog.RecordKey{Kind: "token", Owner: "a"}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var replaced atomic.Int64
	check := func() {
		least := replaced.Load()
		value, err := s.Record(t.Context(), key)
		if n, _ := strconv.ParseInt(string(value), 10, 64); n < least || err != nil {
			t.Errorf("the record is %q, and had been %d before it was asked for (%v)", value, least, err)
		}
	}
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					check()
				}
			}
		})
	}
	for n := int64(1); n <= int64(mutlogtest.Size(50, 300)) && !t.Failed(); n++ {
		put(t, s, key, strconv.AppendInt(nil, n, 10))
		replaced.Store(n)
		check()
	}
	close(stop)
	wg.Wait()
}
