package store

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// A group that many users share is cleaned when most of it is garbage: one small
// batch that stays does not keep the large ones in the file that pruning has
// dropped beside it.
func TestSharedGroupsAreCleaned(t *testing.T) {
	s, err := OpenBolt(filepath.Join(t.TempDir(), "test.db"), BoltOptions{NoSync: true, FoldBatches: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const rounds = 40
	large := fmt.Sprintf(`{"text":"%s"}`, strings.Repeat("x", 10_000))
	for i := range rounds {
		together(t, s,
			func() { push(t, s, "small", note(mutlog.Create, fmt.Sprint(i), `{}`)) },
			func() { push(t, s, "large", note(mutlog.Update, "a", large)) })
	}
	small := read(t, s, "small")
	if err := s.foldAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := mutlog.Retention{History: 1, Receipts: 1}
	done, err := r.Prune(t.Context(), s, "large", time.Now().Add(time.Hour), noPause)
	if err != nil || done.Dropped != rounds-1 {
		t.Fatalf("%+v, %v", done, err)
	}
	for range 3 { // what is changed next cleans
		put(t, s, mutlog.RecordKey{Kind: "test"}, nil)
	}
	err = s.db.View(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketGarbage).ForEach(func(k, v []byte) error {
			garbage, total, err := decodeGarbage(k, v)
			if 2*garbage >= total {
				t.Errorf("of the %d bytes of group %x %d are garbage", total, k, garbage)
			}
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "what shared the groups", small, read(t, s, "small"))
	mutlogtest.CheckSound(t, s)
}

// together has writes share a transaction, by keeping the committer busy until all
// wait.
func together(t *testing.T, s *Bolt, writes ...func()) {
	t.Helper()
	begun, queued := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := s.edit(t.Context(), edit{apply: func(*Bolt, *bolt.Tx, *commit) error {
			close(begun)
			<-queued
			return nil
		}})
		if err != nil {
			t.Error(err)
		}
	})
	<-begun
	for _, write := range writes {
		wg.Go(write)
	}
	for len(s.queue) < len(writes) {
		time.Sleep(time.Millisecond)
	}
	close(queued)
	wg.Wait()
}
