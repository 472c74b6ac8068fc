package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// keyNames say of each kind of key, and of groups, how Check names its place.
var keyNames = map[byte]string{
	kindUser:    "name of the user",
	kindBatch:   "place of a batch",
	kindIndex:   "index",
	kindReceipt: "receipt",
	kindGroup:   "group",
}

// kindGroup stands for the keys of groups.
const kindGroup = 0xff

// One flipped bit in whatever a store keeps is found by Check, which names the
// place, and never changes what a reader is told: it gets the truth or
// ErrCorrupt.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	path := filled(t)
	truth := readDamaged(t, path)
	rnd := rand.New(rand.NewPCG(mutlogtest.Seed(t), 1))
	keys := keysOf(t, path)
	for kind, name := range keyNames {
		if len(keys[kind]) == 0 {
			t.Fatalf("there is no key of kind %s", name)
		}
		for range mutlogtest.Size(2, 6) {
			kv := keys[kind][rnd.IntN(len(keys[kind]))]
			flipped := bytes.Clone(kv.value)
			bit := rnd.IntN(8 * len(flipped))
			flipped[bit/8] ^= 1 << (bit % 8)
			damaged := copyOf(t, path, func(tx *bolt.Tx) error {
				if kind == kindGroup {
					return tx.Bucket(bucketGroups).Bucket(kv.key).Put(groupValue, flipped)
				}
				return tx.Bucket(bucketLogs).Put(kv.key, flipped)
			})
			what := fmt.Sprintf("%s: bit %d of the value of %x", name, bit, kv.key)
			problems := checkDamaged(t, damaged)
			if !strings.Contains(problems, name) {
				t.Errorf("%s: Check reports %q", what, problems)
			}
			for user, got := range readDamaged(t, damaged) {
				if want := truth[user]; got != want && !strings.HasPrefix(got, "corrupt") {
					t.Errorf("%s: %s reads something else", what, user)
				}
			}
		}
	}
}

// A page that claims to go on behind the end of the file is found at once: to
// count through what it claims takes bbolt more time and memory than there is.
func TestEndlessPages(t *testing.T) {
	good, err := os.ReadFile(filled(t))
	if err != nil {
		t.Fatal(err)
	}
	const pageSize, overflow = 4096, 15 // the highest byte of a page's count of further pages
	path := filepath.Join(t.TempDir(), "endless.db")
	found := 0
	for page := 2; page*pageSize < len(good) && found < 5; page++ {
		damaged := bytes.Clone(good)
		if binary.NativeEndian.Uint64(damaged[page*pageSize:]) != uint64(page) {
			continue // the middle of another
		}
		damaged[page*pageSize+overflow] ^= 0x80
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if problems := checkDamaged(t, path); strings.Contains(problems, fmt.Sprintf("page %d: it is said to have 2147483", page)) {
			found++
		} else if problems != "" { // nothing, if the page is free
			t.Errorf("page %d: Check reports %.200q", page, problems)
		}
	}
	if found < 5 {
		t.Errorf("only %d pages claim more than there is", found)
	}
}

// A page that claims a free one, and a list of free pages with one too many, are
// found before a commit meets them: bbolt, whose check does not see either, ends
// the store then.
func TestPagesClaimedTwice(t *testing.T) {
	path := filled(t)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const pageSize, count, overflow = 4096, 10, 12 // places in the header of a page
	types := pageTypes(t, path)
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	check := func(at int, want string) {
		t.Helper()
		b := bytes.Clone(good)
		b[at]++
		if err := os.WriteFile(damaged, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if problems := checkDamaged(t, damaged); !strings.Contains(problems, want) {
			t.Errorf("byte %d of page %d: Check reports %q, want %q", at%pageSize, at/pageSize, problems, want)
		}
	}
	for id, kind := range types {
		if kind == "freelist" {
			check(id*pageSize+count, "a meta page is listed as free")
		}
	}
	claims := 0
	for id, kind := range types {
		if own := binary.NativeEndian.Uint64(good[id*pageSize:]); own != uint64(id) || kind == pageFree {
			continue // or the middle of another
		}
		further := int(binary.NativeEndian.Uint32(good[id*pageSize+overflow:]))
		if types[id+further+1] == pageFree {
			check(id*pageSize+overflow, fmt.Sprintf("page %d: it is said to go on in page %d, which is free", id, id+further+1))
			claims++
		}
	}
	if claims == 0 {
		t.Error("no page stands before a free one")
	}
}

// pageTypes returns what bbolt says of each page of the store at path.
func pageTypes(t *testing.T, path string) map[int]string {
	t.Helper()
	s, err := OpenBolt(path, BoltOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	types := map[int]string{}
	err = s.db.View(func(tx *bolt.Tx) error {
		for id := 0; ; id++ {
			page, err := tx.Page(id)
			if err != nil || page == nil {
				return err
			}
			types[id] = page.Type
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return types
}

// A key that is lost, moved or that nobody has written is found by Check.
func TestBrokenKeys(t *testing.T) {
	t.Parallel()
	path := filled(t)
	keys := keysOf(t, path)
	pick := func(kind byte, i int) keyValue { return keys[kind][i] }
	const middle = 5 // not the first and not the last of alice or bob
	remove := func(kv keyValue) func(*bolt.Bucket) error {
		return func(logs *bolt.Bucket) error { return logs.Delete(kv.key) }
	}
	put := func(key, value []byte) func(*bolt.Bucket) error {
		return func(logs *bolt.Bucket) error { return logs.Put(key, value) }
	}
	resealed := func(kv keyValue, change func(v []byte) []byte) func(*bolt.Bucket) error {
		return put(kv.key, sealed(kv.key, change(bytes.Clone(kv.value))))
	}
	moved := func(kv keyValue, bit int) func(*bolt.Bucket) error {
		return func(logs *bolt.Bucket) error {
			k := bytes.Clone(kv.key)
			k[bit/8] ^= 1 << (bit % 8)
			return errors.Join(logs.Delete(kv.key), logs.Put(k, kv.value))
		}
	}
	p := prefix(pick(kindBatch, middle).key[:prefixSize])
	tests := []struct {
		name   string
		damage func(*bolt.Bucket) error
		want   string
	}{
		{"a user without a name", remove(pick(kindUser, 0)), "the name of the user"},
		{"a user with another's name", func(logs *bolt.Bucket) error {
			k := pick(kindUser, 0).key
			return logs.Put(k, encodeAbout(k, &about{Bounds: mutlog.NoBounds, name: "mallory"}))
		}, `user "mallory": the name stands under the key`},
		{"a batch is lost", remove(pick(kindBatch, middle)), "and not the head before it"},
		{"the first batch is lost", remove(pick(kindBatch, 0)), "and not the head before it"},
		{"a batch at another time", moved(pick(kindBatch, middle), 8*keySize-1), "the place of a batch at key"},
		{"a batch of another user", moved(pick(kindBatch, middle), 3), "the name of the user"},
		{"a key of no kind", put(append(p[:], 9, 0, 0, 0, 0, 0, 0, 0), nil), "is none of this format"},
		{"a short key", put([]byte("short"), nil), "is none of this format"},
		{"a long key", put(append(pick(kindMerged, 0).key, 0), nil), "is none of this format"},
		{"a chunk of the index is lost", remove(pick(kindIndex, 2)), "is not found as that"},
		{"the first chunk of the index is lost", remove(pick(kindIndex, 0)), "is not found as that"},
		{"entries of the index are lost", resealed(pick(kindIndex, 2), func(v []byte) []byte { return v[:4+indexEntry] }), "is not found as that"},
		{"the index knows an older mutation", resealed(pick(kindIndex, 2), func(v []byte) []byte {
			return older(t, path, p, v)
		}), "is not found as that"},
		{"the index leads elsewhere", resealed(pick(kindIndex, 2), func(v []byte) []byte {
			copy(v[4+hashSize:4+indexEntry], v[4+indexEntry+hashSize:])
			return v
		}), "which is of another resource"},
		{"the index leads nowhere", resealed(pick(kindIndex, 2), func(v []byte) []byte {
			binary.BigEndian.PutUint64(v[4+hashSize:], 5)
			return v
		}), "there is no mutation 5"},
		{"the index is out of order", resealed(pick(kindIndex, 2), func(v []byte) []byte {
			first := bytes.Clone(v[4 : 4+indexEntry])
			copy(v[4:], v[4+indexEntry:4+2*indexEntry])
			copy(v[4+indexEntry:], first)
			return v
		}), "is out of order"},
		{"a receipt is lost", remove(pick(kindReceipt, 0)), "would not be recognised"},
		{"a receipt names another batch", func(logs *bolt.Bucket) error {
			k := pick(kindReceipt, 0).key
			return logs.Put(k, encodeReceipt(k, keyNumber(pick(kindBatch, 0).key)))
		}, "which has another Idempotency-Key"},
		{"a receipt of nothing", func(logs *bolt.Bucket) error {
			k := p.receiptKey("never used")
			return logs.Put(k, encodeReceipt(k, keyNumber(pick(kindBatch, middle).key)))
		}, "which has another Idempotency-Key"},
		{"a merged batch is not listed", remove(pick(kindMerged, 0)), "would not be recognised"},
		{"a merged batch that is none", put(p.mergedKey(5, 6), nil), "a merged batch: "},
		{"a merged batch of another base", put(p.mergedKey(5, keyNumber(pick(kindBatch, middle).key)), nil), "is listed as merged behind 5"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			damaged := copyOf(t, path, func(tx *bolt.Tx) error { return test.damage(tx.Bucket(bucketLogs)) })
			if problems := checkDamaged(t, damaged); !strings.Contains(problems, test.want) {
				t.Errorf("got %q, want %q", problems, test.want)
			}
		})
	}
}

// A group that is lost, or that an older page has taken the place of, is found
// by Check, even if what stands there is sound by itself.
func TestBrokenGroups(t *testing.T) {
	path := filled(t)
	groups := keysOf(t, path)[kindGroup]
	tests := []struct {
		name   string
		damage func(groups *bolt.Bucket) error
		want   string
	}{
		{"the last is lost", func(b *bolt.Bucket) error { return b.DeleteBucket(groups[len(groups)-1].key) }, "batches, and there should be"},
		{"one is lost", func(b *bolt.Bucket) error { return b.DeleteBucket(groups[7].key) }, "there is no group 8"},
		{"two are exchanged", func(b *bolt.Bucket) error {
			return errors.Join(b.Bucket(groups[7].key).Put(groupValue, groups[8].value), b.Bucket(groups[8].key).Put(groupValue, groups[7].value))
		}, "the place of batch"},
		{"one stands twice", func(b *bolt.Bucket) error { return b.Bucket(groups[7].key).Put(groupValue, groups[8].value) }, "the place of batch"},
		{"one is empty", func(b *bolt.Bucket) error { return b.Bucket(groups[7].key).Put(groupValue, nil) }, "group 8"},
		{"a key of no group", func(b *bolt.Bucket) error { return b.Put([]byte{0}, nil) }, "is none of this format"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			damaged := copyOf(t, path, func(tx *bolt.Tx) error { return test.damage(tx.Bucket(bucketGroups)) })
			if problems := checkDamaged(t, damaged); !strings.Contains(problems, test.want) {
				t.Errorf("got %q, want %q", problems, test.want)
			}
		})
	}
}

// A process that is killed at whatever point leaves a store that opens with all
// that was answered, whether folded or half folded or not, and goes on.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, fold := range []int{1, 40, 200} {
		t.Run(fmt.Sprint("folding ", fold), func(t *testing.T) {
			s := openBoltTest(t, BoltOptions{FoldBatches: fold, NoSync: true})
			w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(mutlogtest.Seed(t), 1)), Resources: 100}
			for i := range 400 {
				user := mutlog.User(fmt.Sprint("user-", i%7))
				push(t, s, user, w.Batch(10)...)
				if i%40 != 39 {
					continue
				}
				copied := filepath.Join(t.TempDir(), "copy.db") // what the file is now, nobody closed it
				good, err := os.ReadFile(s.path)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(copied, good, 0o600); err != nil {
					t.Fatal(err)
				}
				after, err := OpenBolt(copied, BoltOptions{FoldBatches: fold, NoSync: true})
				if err != nil {
					t.Fatal(err)
				}
				if after.Clean() {
					t.Fatal("it says that it was closed")
				}
				same(t, "users", usersOf(t, s), usersOf(t, after))
				for u := range 7 {
					user := mutlog.User(fmt.Sprint("user-", u))
					same(t, string(user), read(t, s, user), read(t, after, user))
				}
				for range 10 {
					push(t, after, user, w.Batch(10)...)
				}
				closeSound(t, after)
			}
		})
	}
}

// older makes an entry of the chunk v of p tell of the mutation before its
// newest.
func older(t *testing.T, path string, p prefix, v []byte) []byte {
	s, err := OpenBolt(path, BoltOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for entry := v[4:]; len(entry) > 0; entry = entry[indexEntry:] {
		at := mutlog.Timestamp(binary.BigEndian.Uint64(entry[hashSize:]))
		var prev mutlog.Timestamp
		for user := range usersOf(t, s) {
			view(t, s, user, func(tx mutlog.Reader) {
				if prefixOf(user) == p {
					b := must[[]*mutlog.Batch](t)(tx.Batches(at-1, 1))[0]
					e := b.Entries[at-b.First()]
					// What is in the tail, too, is found there.
					if newest := must[[]*mutlog.Entry](t)(tx.Newest([]mutlog.Ref{e.Ref()}, mutlog.MaxTimestamp)); newest[0].Timestamp == at {
						prev = e.Prev
					}
				}
			})
		}
		if prev > 0 {
			binary.BigEndian.PutUint64(entry[hashSize:], uint64(prev))
			return v
		}
	}
	t.Fatal("every resource of the chunk has changed once only")
	return nil
}

// Rules that a batch breaks are found by the Check of mutlog when a bbolt store
// holds it, as far as its format can hold it at all.
func TestCheckFindsBrokenRules(t *testing.T) {
	entry := func(change func(*mutlog.Entry)) mutlog.Entry {
		e := mutlog.Entry{Mutation: note(mutlog.Update, "a", `{"w":2}`), State: []byte(`{"v":1,"w":2}`), Prev: 10, Born: 10}
		change(&e)
		return e
	}
	batch := func(change func(*mutlog.Entry)) *mutlog.Batch {
		return &mutlog.Batch{Base: 10, Previous: 10, Entries: []mutlog.Entry{entry(change)}}
	}
	tests := []struct {
		name  string
		batch *mutlog.Batch
		at    mutlog.Timestamp
		want  string // "": sound
	}{
		{"sound", batch(func(e *mutlog.Entry) {}), 11, ""},
		{"wrong prev", batch(func(e *mutlog.Entry) { e.Prev = -1 }), 11, "before it is -1, which is 10"},
		{"wrong birth", batch(func(e *mutlog.Entry) { e.Born = 11 }), 11, "lives since 11, which is 10"},
		{"wrong state", batch(func(e *mutlog.Entry) { e.State = []byte(`{"w":2}`) }), 11, "(rule 6)"},
		{"no state", batch(func(e *mutlog.Entry) { e.State = nil }), 11, "(rule 13)"},
		{"wrong resource", batch(func(e *mutlog.Entry) { e.Resource = "note" }), 11, "(rule 5)"},
		{"no JSON", batch(func(e *mutlog.Entry) { e.Data = []byte(`{`) }), 11, "(rule 5)"},
		{"not later", batch(func(e *mutlog.Entry) {}), 9, ""},
		{"too late", batch(func(e *mutlog.Entry) {}), 1 << 53, "(rule 3)"},
		{"pushed on the future", &mutlog.Batch{Base: 11, Previous: 10, Entries: []mutlog.Entry{entry(func(*mutlog.Entry) {})}}, 12, "pushed on 11, later than the head"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := OpenBolt(filepath.Join(t.TempDir(), "test.db"), BoltOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			first := &mutlog.Batch{Base: -1, Previous: -1, Entries: []mutlog.Entry{{Mutation: note(mutlog.Create, "a", `{"v":1}`), State: []byte(`{"v":1}`), Prev: -1, Born: 10}}}
			first.Entries[0].Timestamp, test.batch.Entries[0].Timestamp = 10, test.at
			for _, b := range []*mutlog.Batch{first, test.batch} {
				if err := s.Update(t.Context(), "alice", func(tx mutlog.Tx) error { return tx.Append(b) }); err != nil {
					t.Fatal(err)
				}
			}
			var problems []string
			if err := mutlog.Check(t.Context(), s, func(p string) { problems = append(problems, p) }); err != nil {
				problems = append(problems, err.Error())
			}
			if sound := test.want == "" && test.at > 10; sound != (len(problems) == 0) || !strings.Contains(strings.Join(problems, "\n"), test.want) {
				t.Errorf("got %q, want %q", problems, test.want)
			}
		})
	}
}

// keysOf returns all keys and values of a closed store by their kind.
func keysOf(t *testing.T, path string) map[byte][]keyValue {
	t.Helper()
	keys := map[byte][]keyValue{}
	err := rewrite(path, func(tx *bolt.Tx) error {
		groups := tx.Bucket(bucketGroups)
		err := groups.ForEachBucket(func(k []byte) error {
			keys[kindGroup] = append(keys[kindGroup], keyValue{key: bytes.Clone(k), value: bytes.Clone(groups.Bucket(k).Get(groupValue))})
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketLogs).ForEach(func(k, v []byte) error {
			keys[k[prefixSize]] = append(keys[k[prefixSize]], keyValue{key: bytes.Clone(k), value: bytes.Clone(v)})
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// copyOf returns the path of a copy of a store that damage has damaged.
func copyOf(t *testing.T, path string, damage func(*bolt.Tx) error) string {
	t.Helper()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(damaged, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(damaged, damage); err != nil {
		t.Fatal(err)
	}
	return damaged
}

// checkDamaged returns what Check reports of a damaged store.
func checkDamaged(t *testing.T, path string) string {
	t.Helper()
	s, err := OpenBolt(path, BoltOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var problems []string
	if err := mutlog.Check(t.Context(), s, func(p string) { problems = append(problems, p) }); err != nil {
		problems = append(problems, err.Error())
	}
	return strings.Join(problems, "\n")
}

// readDamaged returns what can be read of each user of a damaged store:
// everything, or what is corrupt.
func readDamaged(t *testing.T, path string) map[mutlog.User]string {
	t.Helper()
	s, err := OpenBolt(path, BoltOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	texts := map[mutlog.User]string{}
	for _, user := range []mutlog.User{"alice", "bob"} {
		err := s.View(t.Context(), user, func(tx mutlog.Reader) error {
			text, err := readAll(tx)
			texts[user] = text
			return err
		})
		if errors.Is(err, mutlog.ErrCorrupt) {
			texts[user] = "corrupt: " + err.Error()
		} else if err != nil {
			t.Errorf("%s: %v", user, err)
		}
	}
	return texts
}

// readAll describes all that can be read in every way, or returns the first
// error.
func readAll(tx mutlog.Reader) (string, error) {
	var text []string
	head, err := tx.Head()
	if err != nil {
		return "", err
	}
	batches, err := tx.Batches(mutlog.Beginning, 1<<30)
	if err != nil {
		return "", err
	}
	var refs []mutlog.Ref
	found := batches
	for _, b := range batches {
		if b.Key != "" {
			one, err := tx.BatchByKey(b.Key)
			if err != nil {
				return "", err
			}
			found = append(found, one)
		}
		on, err := mutlogtest.All(tx.BatchesOn(b.Base))
		if err != nil {
			return "", err
		}
		found = append(found, on...)
		for _, e := range b.Entries {
			refs = append(refs, e.Ref())
		}
	}
	text = append(text, describe(content{Batches: found})...)
	newest, err := tx.Newest(refs, head)
	if err != nil {
		return "", err
	}
	for _, e := range newest {
		if e == nil {
			text = append(text, "none")
			continue
		}
		text = append(text, describeEntry(*e))
	}
	for after := mutlog.Beginning; after < head; {
		changes, upTo, err := tx.Changes(after, head, 100)
		if err != nil {
			return "", err
		}
		text = append(text, describe(content{Changes: changes})...)
		after = upTo
	}
	return fmt.Sprint(head, text), nil
}
