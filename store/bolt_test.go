package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// openBoltTest opens a store of bbolt in a new file.
func openBoltTest(t testing.TB, options BoltOptions) *Bolt {
	t.Helper()
	s, err := OpenBolt(filepath.Join(t.TempDir(), "test.db"), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeSound(t, s) })
	return s
}

// fill pushes so much for alice and bob that there is one of every kind of key.
func fill(t testing.TB, s mutlog.Store) {
	t.Helper()
	w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(1, 1)), Resources: 700}
	log := mutlog.New(s, mutlog.DefaultLimits)
	for _, user := range []mutlog.User{"alice", "bob"} {
		head := push(t, s, user, note(mutlog.Create, "first", `{}`))
		for i := range 70 {
			p := mutlog.Push{Base: head, Mutations: w.Batch(60)}
			switch i % 10 {
			case 3:
				p.Key, p.Client = fmt.Sprint("key ", i), "phone"
			case 6:
				p.Merge, p.Base, p.Mutations = true, head-1, []mutlog.Mutation{note(mutlog.Create, fmt.Sprint("merged ", i), `{}`)}
			}
			answer, err := log.Push(t.Context(), user, p)
			if err != nil {
				t.Fatal(err)
			}
			head = answer.Head
		}
	}
}

// filled returns the path of a closed store that fill has filled.
func filled(t testing.TB) string {
	t.Helper()
	s := openBoltTest(t, BoltOptions{NoSync: true})
	fill(t, s)
	closeSound(t, s)
	return s.path
}

// A file that is no sound store is refused in one line, with the error that
// tells what it is, and stays as it is: never a panic, never a new, empty store.
func TestOpenErrors(t *testing.T) {
	t.Parallel()
	path := filled(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenBolt(path, BoltOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	pages := int(used(t, s)) // what is behind them in the file is room to grow
	s.Close()
	truncated := func(n int) func(string) error {
		return func(path string) error { return os.WriteFile(path, good[:n], 0o600) }
	}
	// changed is a good store in which fn has put something else.
	changed := func(fn func(*bolt.Tx) error) func(string) error {
		return func(path string) error {
			if err := os.WriteFile(path, good, 0o600); err != nil {
				return err
			}
			return rewrite(path, fn)
		}
	}
	content := func(s string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(s), 0o600) }
	}
	tests := []struct {
		name string
		make func(path string) error
		want error // nil: some other error
	}{
		{"a directory", func(path string) error { return os.Mkdir(path, 0o700) }, nil},
		{"a directory that is not there", func(path string) error { return os.Symlink("/nowhere/at/all", path) }, fs.ErrNotExist},
		{"an empty file", content(""), ErrDamaged},
		{"a byte", content("x"), ErrDamaged},
		{"text", content(strings.Repeat("not a store\n", 5000)), ErrDamaged},
		{"zeros", content(strings.Repeat("\x00", 65536)), ErrDamaged},
		{"a database of another kind", content("SQLite format 3\x00" + strings.Repeat("\x00", 8192)), ErrDamaged},
		{"a bbolt file of another program", func(path string) error {
			db, err := bolt.Open(path, 0o600, nil)
			if err != nil {
				return err
			}
			return errors.Join(db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err }), db.Close())
		}, ErrDamaged},
		{"truncated to 1 byte", truncated(1), ErrDamaged},
		{"truncated to 4095 bytes", truncated(4095), ErrDamaged},
		{"truncated to 4096 bytes", truncated(4096), ErrDamaged},
		{"truncated to 8191 bytes", truncated(8191), ErrDamaged},
		{"truncated to 8192 bytes", truncated(8192), ErrDamaged},
		{"truncated to half", truncated(pages / 2), ErrDamaged},
		{"truncated by a page", truncated(pages - 4096), ErrDamaged},
		{"truncated by a byte", truncated(pages - 1), ErrDamaged},
		{"without its logs", changed(func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketLogs) }), ErrDamaged},
		{"without its meta data", changed(func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketMeta) }), ErrDamaged},
		{"without a format", changed(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Delete(metaFormat) }), ErrDamaged},
		{"of format 0", changed(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(metaFormat, []byte("0")) }), ErrDamaged},
		{"of format x", changed(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(metaFormat, []byte("x")) }), ErrDamaged},
		{"of the next format", changed(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(metaFormat, []byte("2")) }), ErrNewer},
	}
	for _, test := range tests {
		for _, readOnly := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, read only %v", test.name, readOnly), func(t *testing.T) {
				dir := t.TempDir()
				path := filepath.Join(dir, "test.db")
				if err := test.make(path); err != nil {
					t.Fatal(err)
				}
				before, _ := os.ReadFile(path)
				s, err := OpenBolt(path, BoltOptions{ReadOnly: readOnly})
				if err == nil {
					s.Close()
					t.Fatal("it was opened")
				}
				if test.want != nil && !errors.Is(err, test.want) || test.want == nil && (errors.Is(err, ErrDamaged) || errors.Is(err, ErrNewer)) {
					t.Errorf("got %v, want %v", err, test.want)
				}
				if text := err.Error(); !strings.Contains(text, "store") || strings.Contains(text, "\n") {
					t.Errorf("the message is %q", text)
				}
				if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
					t.Error("the file was changed")
				}
				if files, _ := os.ReadDir(dir); len(files) != 1 {
					t.Errorf("files were left: %v", files)
				}
			})
		}
	}
}

// rewrite runs fn on a file behind the back of the store. The state of the file
// goes on as if the store had written.
func rewrite(path string, fn func(*bolt.Tx) error) error {
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		before := tx.Bucket(bucketMeta).Get(metaState)
		st := state{tx.ID(), binary.BigEndian.Uint64(before[12:]), true}
		return errors.Join(st.write(tx), fn(tx))
	})
	return errors.Join(err, db.Close())
}

func TestOpenURL(t *testing.T) {
	for _, url := range []string{"mysql://localhost/x", "http://localhost", "://"} {
		if s, err := Open(url, BoltOptions{}); err == nil {
			s.Close()
			t.Errorf("%s was opened", url)
		}
	}
	if _, err := OpenBolt(filepath.Join(t.TempDir(), "none.db"), BoltOptions{ReadOnly: true}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading what does not exist: %v", err)
	}
}

// A second process that opens the same file is told so, and does no harm.
func TestOpenInUse(t *testing.T) {
	t.Parallel() // it waits for the lock, for five seconds
	s := openBoltTest(t, BoltOptions{})
	fill(t, s)
	before := read(t, s, "alice")
	var wg sync.WaitGroup
	for _, readOnly := range []bool{false, true} {
		wg.Go(func() {
			other, err := OpenBolt(s.path, BoltOptions{ReadOnly: readOnly})
			if err == nil {
				other.Close()
			}
			if !errors.Is(err, ErrInUse) || errors.Is(err, ErrDamaged) {
				t.Errorf("read only %v: got %v", readOnly, err)
			}
		})
	}
	wg.Wait()
	same(t, "alice", before, read(t, s, "alice"))
	push(t, s, "alice", note(mutlog.Create, "a", `{}`))
}

// A store appears complete or not at all: what a crash leaves of one that was
// being made has another name, and two who make it at once get the same one.
func TestCreate(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "test.db")
	if err := os.WriteFile(path+".tmp-1", []byte("half a sto"), 0o600); err != nil { // a crash
		t.Fatal(err)
	}
	for i := range 3 {
		s := (&opener{backends[0], t, path}).open()
		push(t, s, "alice", note(mutlog.Create, fmt.Sprint(i), `{}`))
		closeSound(t, s)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode of the file is %v, %v", info.Mode(), err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 2 {
		t.Errorf("files were left: %v", files)
	}

	path = filepath.Join(dir, "second.db")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s, err := OpenBolt(path, BoltOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			push(t, s, mutlog.User(fmt.Sprint("user-", i)), note(mutlog.Create, "a", `{}`))
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s := (&opener{backends[0], t, path}).open()
	same(t, "users", 8, len(usersOf(t, s)))
}

// Rule 7: durability is never given up unless a test asks for it.
func TestDurabilityIsNotGivenUp(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "test.db"), BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if db := s.(*Bolt).db; db.NoSync || db.NoGrowSync || db.NoFreelistSync {
		t.Errorf("NoSync %v, NoGrowSync %v, NoFreelistSync %v", db.NoSync, db.NoGrowSync, db.NoFreelistSync)
	}
	if !openBoltTest(t, BoltOptions{NoSync: true}).db.NoSync {
		t.Error("the option has no effect, and this test would notice nothing")
	}
}

// A store that is read only reads, beside others, and refuses to write.
func TestReadOnly(t *testing.T) {
	path := filled(t)
	var stores []*Bolt
	for range 2 {
		s, err := OpenBolt(path, BoltOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeSound(t, s) })
		stores = append(stores, s)
	}
	before := read(t, stores[0], "alice")
	_, err := mutlog.New(stores[0], mutlog.DefaultLimits).Push(t.Context(), "alice",
		mutlog.Push{Base: before.Head, Mutations: []mutlog.Mutation{note(mutlog.Delete, "first", "")}})
	if !errors.Is(err, mutlog.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	same(t, "alice", before, read(t, stores[1], "alice"))
}

// More pushes than the queue has room for are refused at once; those in it are
// applied when the disk is there again. Readers do not wait.
func TestQueueIsBounded(t *testing.T) {
	s := openBoltTest(t, BoltOptions{QueueLength: 3})
	push(t, s, "reader", note(mutlog.Create, "a", `{}`))
	slow, err := s.db.Begin(true) // the disk is slow
	if err != nil {
		t.Fatal(err)
	}
	log := mutlog.New(s, mutlog.DefaultLimits)
	results := make(chan error, 20)
	for i := range cap(results) {
		go func() {
			_, err := log.Push(t.Context(), mutlog.User(fmt.Sprint("user-", i)), mutlog.Push{Base: -1, Mutations: []mutlog.Mutation{note(mutlog.Create, "a", `{}`)}})
			results <- err
		}()
	}
	refused := 0
	deadline := time.After(10 * time.Second)
	for refused < cap(results)-2*(3+1) { // one in work, or a group of up to four, and three in the queue
		select {
		case err := <-results:
			if !errors.Is(err, mutlog.ErrUnavailable) {
				t.Fatalf("got %v", err)
			}
			refused++
		case <-deadline:
			t.Fatalf("%d were refused", refused)
		}
	}
	same(t, "a reader", 1, len(read(t, s, "reader").Batches))
	if err := slow.Rollback(); err != nil {
		t.Fatal(err)
	}
	applied := 0
	for range cap(results) - refused {
		switch err := <-results; {
		case err == nil:
			applied++
		case !errors.Is(err, mutlog.ErrUnavailable):
			t.Errorf("got %v", err)
		}
	}
	if applied < 3 || applied != len(usersOf(t, s))-1 {
		t.Errorf("%d were applied, %d users have a log", applied, len(usersOf(t, s))-1)
	}
	push(t, s, "late", note(mutlog.Create, "a", `{}`))
}

// A batch that does not follow the head is a fault of the caller, not a reason
// to try for ever.
func TestAppendElsewhere(t *testing.T) {
	s := openBoltTest(t, BoltOptions{})
	head := push(t, s, "alice", note(mutlog.Create, "a", `{}`))
	for _, previous := range []mutlog.Timestamp{mutlog.Beginning, head - 1, head + 1} {
		err := s.Update(t.Context(), "alice", func(tx mutlog.Tx) error {
			e := mutlog.Entry{Mutation: note(mutlog.Delete, "b", ""), Prev: -1, Born: -1}
			e.Timestamp = head + 10
			return tx.Append(&mutlog.Batch{Base: previous, Previous: previous, Entries: []mutlog.Entry{e}})
		})
		if err == nil {
			t.Errorf("a batch that follows %d was appended to %d", previous, head)
		}
	}
}

// A small push that touches large batches does not hold all of them in memory.
func TestNewestIsSmall(t *testing.T) {
	t.Parallel()
	s := openBoltTest(t, BoltOptions{NoSync: true})
	large := `{"x":"` + strings.Repeat("x", 60_000) + `"}`
	var refs []mutlog.Ref
	for i := range 20 {
		var batch []mutlog.Mutation
		for j := range 50 {
			batch = append(batch, note(mutlog.Create, fmt.Sprint(i, "-", j), large))
		}
		refs = append(refs, batch[7].Ref())
		push(t, s, "alice", batch...)
	}
	view(t, s, "alice", func(tx mutlog.Reader) {
		before := liveHeap()
		newest := must[[]*mutlog.Entry](t)(tx.Newest(refs, mutlog.MaxTimestamp))
		if grown := int64(liveHeap()) - int64(before); grown > 10<<20 {
			t.Errorf("%d entries of 60 kB hold %d MiB", len(newest), grown>>20)
		}
		same(t, "the last", large, string(newest[19].State))
	})
}

// Two resources whose hashes begin alike are told from each other, in the tail
// of a log and in the index.
func TestSameTag(t *testing.T) {
	seen := map[uint32]string{}
	var one, other string
	for i := 0; other == ""; i++ {
		id := fmt.Sprint("nr-", i)
		h := hashRef("NOTE", id)
		if one = seen[h.tag()]; one != "" {
			other = id
		}
		seen[h.tag()] = id
	}
	for _, fold := range []int{0, 1} {
		s := openBoltTest(t, BoltOptions{FoldBatches: fold, NoSync: true})
		for i := range 2 * tailBatches {
			push(t, s, "alice", note(mutlog.Update, one, fmt.Sprintf(`{"one":%d}`, i)))
			if i == 0 {
				push(t, s, "alice", note(mutlog.Create, other, `{"other":true}`))
			}
		}
		view(t, s, "alice", func(tx mutlog.Reader) {
			newest := must[[]*mutlog.Entry](t)(tx.Newest([]mutlog.Ref{{Resource: "NOTE", ResourceID: one}, {Resource: "NOTE", ResourceID: other}}, mutlog.MaxTimestamp))
			same(t, "one", fmt.Sprintf(`{"one":%d}`, 2*tailBatches-1), string(newest[0].State))
			same(t, "other", `{"other":true}`, string(newest[1].State))
		})
	}
}
