package faults_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

var golden = flag.Bool("golden", false, "write testdata/format-1.db.gz anew; only before the format is released")

// TestF42Formats opens a store of every format that was released, as it lies in
// testdata, and refuses one of a later version.
func TestF42Formats(t *testing.T) {
	const kept, contentsOf = "testdata/format-1.db.gz", "testdata/format-1.json"
	if *golden {
		writeGolden(t, kept, contentsOf)
	}
	var want map[string]string
	b, err := os.ReadFile(contentsOf)
	if err == nil {
		err = json.Unmarshal(b, &want)
	}
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(scratch(t), "tidemark.db")
	unpack(t, kept, store)
	check(t, store)
	s := start(t, store, options{})
	for user, history := range want {
		if status, got := contents(s, user); status != 200 || got != history {
			t.Errorf("%s is answered with %d and not what the store was made with:\n%s", user, status, got)
		}
	}
	f := newFleet(t, 8, 6)
	f.next = 1_000_000
	rnd := newRandom(t)
	for i := range f.users { // and goes on
		head, _ := f.head(s, f.user(i))
		if status, _ := f.push(s, f.newBatch(rnd, i, head)); status != 200 {
			t.Errorf("a push to the old store is answered with %d", status)
		}
	}
	s.stop()
	check(t, store)

	later := filepath.Join(scratch(t), "later.db")
	unpack(t, kept, later)
	db, err := bolt.Open(later, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket([]byte("tidemark")).Put([]byte("format"), []byte("2"))
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	for _, command := range []string{"serve", "check"} {
		code, out := run(t, command, "--store", later)
		if code != 65 || !strings.Contains(out, "newer version") {
			t.Errorf("%s of a store of format 2 exits with %d: %s", command, code, out)
		}
		oneLine(t, out)
	}
	counts(t, "the store of format 1 opens with %d logs unaltered and takes pushes, one of format 2 is refused with 65 and one line", len(want))
}

// writeGolden makes a store with all that a store can hold: several logs, batches
// with keys and merged ones, folded and recent places, an index.
func writeGolden(t *testing.T, store, contentsOf string) {
	path := filepath.Join(scratch(t), "tidemark.db")
	f := newFleet(t, 8, 6)
	rnd := newRandom(t)
	for _, fold := range []int{5, 0} {
		s := start(t, path, options{fold: fold})
		for i := range 60 {
			device := 0
			if i%5 == 0 {
				device = i / 5
			}
			base, _ := f.head(s, f.user(device))
			if device%4 == 2 && base > 0 { // behind the cursor, so that it is merged
				other := f.newBatch(rnd, device, base)
				f.push(s, other)
			}
			f.push(s, f.newBatch(rnd, device, base))
		}
		f.settle(s)
		s.kill()
	}
	b, err := json.MarshalIndent(f.contents(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("testdata", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(contentsOf, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	b, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(b)
	z.Close()
	if err := os.WriteFile(store, packed.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// unpack writes a file that is kept packed.
func unpack(t *testing.T, from, to string) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
}
