package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store"
	"tidemark/store/postgrestest"
	"tidemark/transfer"
)

// kinds are the stores that can be copied to each other.
var kinds = map[string]func(testing.TB) string{
	"bolt":     func(t testing.TB) string { return filepath.Join(t.TempDir(), "tidemark.db") },
	"postgres": postgrestest.URL,
}

func open(t testing.TB, url string) store.Store {
	t.Helper()
	s, err := store.Open(url, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// sent is a push that was applied, and its answer.
type sent struct {
	user   mutlog.User
	push   mutlog.Push
	answer *mutlog.Pushed
}

const lost mutlog.User = "has lost a part"

// fill gives a store logs of many users, with merged pushes, keys and clients, a
// restore in the past, a log with a gap of its own, worn ones (worn_test.go), and
// records.
func fill(t testing.TB, s mutlog.Store, users, batches, records int) (pushes []sent) {
	t.Helper()
	ctx := t.Context()
	rnd := rand.New(rand.NewPCG(mutlogtest.Seed(t), 0))
	log := mutlog.New(s, mutlog.DefaultLimits)
	writer := mutlogtest.Writer{Rand: rnd, Resources: 40}
	pushes = begin(t, s, &writer, batches)
	for i := range users * batches {
		if i == users*batches/2 {
			must(t, s.Fence(ctx, mutlog.Timestamp(time.Now().UnixMilli()+5)))
		}
		user := mutlog.User(fmt.Sprint("user-", rnd.IntN(users)))
		head, err := log.Head(ctx, user)
		must(t, err)
		p := mutlog.Push{Base: head, Mutations: writer.Batch(8)}
		switch i % 4 {
		case 0:
			p.Key = fmt.Sprint("key-", i)
		case 1:
			p.Client = "phone"
		case 2:
			p.Merge, p.Base = true, max(mutlog.Beginning, head-mutlog.Timestamp(rnd.IntN(5)))
		}
		answer, err := log.Push(ctx, user, p)
		var refused *mutlog.OutOfSyncError
		if errors.As(err, &refused) {
			continue
		}
		must(t, err)
		pushes = append(pushes, sent{user, p, answer})
	}
	pushes = append(pushes, wear(t, s, &writer)...)
	must(t, transfer.SetBounds(ctx, s, lost, mutlog.Bounds{Pruned: mutlog.Beginning, Horizon: mutlog.Beginning, Gaps: []mutlog.Gap{{After: 5, Until: 1000}}}))
	_, err := log.Push(ctx, lost, mutlog.Push{Base: mutlog.Beginning, Mutations: writer.Batch(3)})
	must(t, err)
	for i := range records {
		setRecord(t, s, mutlog.RecordKey{Kind: []string{"token", "device"}[i%2], Owner: fmt.Sprint(i / 4), Name: fmt.Sprint(i)}, fmt.Sprint("value ", i))
	}
	setRecord(t, s, mutlog.RecordKey{Kind: "a", Owner: "", Name: "\x00 and more"}, "")
	return pushes
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func setRecord(t testing.TB, s mutlog.Store, key mutlog.RecordKey, value string) {
	t.Helper()
	must(t, s.UpdateRecord(t.Context(), key, func([]byte) ([]byte, error) { return []byte(value), nil }))
}

func records(t testing.TB, s mutlog.Store) (all []mutlog.Record) {
	t.Helper()
	for r, err := range s.Records(t.Context(), "", "") {
		must(t, err)
		all = append(all, r)
	}
	return all
}

func users(t testing.TB, s mutlog.Store) (all []mutlog.User) {
	t.Helper()
	must(t, s.Users(t.Context(), func(u mutlog.User) error { all = append(all, u); return nil }))
	slices.Sort(all)
	return all
}

// migrated fails the test unless to has become what from is: for a device, which
// repeats what it has pushed, pulls what it pulled, and goes on.
func migrated(t testing.TB, from, to mutlog.Store, pushes []sent) {
	t.Helper()
	ctx := t.Context()
	must(t, transfer.Unfinished(ctx, to))
	if a, b := users(t, from), users(t, to); !slices.Equal(a, b) {
		t.Fatalf("users %q have become %q", a, b)
	}
	if a, b := records(t, from), records(t, to); !reflect.DeepEqual(a, b) {
		t.Errorf("records\n%q\nhave become\n%q", a, b)
	}
	for _, user := range users(t, from) {
		must(t, transfer.Same(ctx, from, to, user))
	}
	wornOut(t, from)
	for _, user := range []mutlog.User{"user-0", lost, pruned, idle, back} {
		sameAnswers(t, from, to, user)
	}
	for _, p := range pushes {
		repeated(t, from, to, p)
	}
	refusesLost(t, to, lost, 500)
	goesOn(t, to, pushes)
	for _, p := range pushes {
		if p.user == erased { // and has begun anew
			refusesLost(t, to, erased, p.answer.Head)
		}
	}
	mutlogtest.CheckSound(t, to)
}

// TestMigration copies stores of each kind to each.
func TestMigration(t *testing.T) {
	for fromKind, fromURL := range kinds {
		for toKind, toURL := range kinds {
			t.Run(fromKind+" to "+toKind, func(t *testing.T) {
				from, to := open(t, fromURL(t)), open(t, toURL(t))
				pushes := fill(t, from, 20, 10, 30)
				var copied, verified atomic.Int64
				m := transfer.Migration{From: from, To: to, Source: "test",
					Copied:   func(done, total int64) { copied.Store(max(copied.Load(), done*1000+total)) },
					Verified: func(done, total int64) { verified.Store(max(verified.Load(), done*1000+total)) }}
				sum, err := m.Run(t.Context())
				must(t, err)
				logs := int64(len(users(t, from)))
				if want := countBatches(t, from); sum.Batches != want || sum.Logs != logs || sum.Records != 31 {
					t.Errorf("copied %+v, want %d batches of %d logs and 31 records", sum, want, logs)
				}
				if c, v := copied.Load(), verified.Load(); c != logs*1001 || v != logs*1001 {
					t.Errorf("the progress that was told last is %d and %d, want %d of them", c, v, logs)
				}
				migrated(t, from, to, pushes)
			})
		}
	}
}

// interrupted is a store that a process leaves alone for ever at one of its
// changes, before or after that has taken effect.
type interrupted struct {
	mutlog.Store
	mu      sync.Mutex
	changes int
	at      int // the number of the change; 0 for never
	after   bool
}

var errInterrupted = errors.New("interrupted")

func (s *interrupted) change(fn func() error) error {
	s.mu.Lock()
	s.changes++
	change := s.changes
	s.mu.Unlock()
	switch {
	case s.at == 0 || change < s.at:
		return fn()
	case change == s.at && s.after:
		return errors.Join(fn(), errInterrupted)
	}
	return errInterrupted
}

func (s *interrupted) Update(ctx context.Context, user mutlog.User, fn func(mutlog.Tx) error) error {
	return s.change(func() error { return s.Store.Update(ctx, user, fn) })
}

func (s *interrupted) UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func([]byte) ([]byte, error)) error {
	return s.change(func() error { return s.Store.UpdateRecord(ctx, key, fn) })
}

func (s *interrupted) Fence(ctx context.Context, at mutlog.Timestamp) error {
	return s.change(func() error { return s.Store.Fence(ctx, at) })
}

// TestInterrupted ends a migration before and after each of its changes (F18).
// What is there then is known as a part, and not to be served; run again, the
// migration ends as if nothing had been.
func TestInterrupted(t *testing.T) {
	for kind, url := range kinds {
		t.Run(kind, func(t *testing.T) {
			ctx := t.Context()
			from := open(t, kinds["bolt"](t))
			pushes := fill(t, from, 2, 5, 3)
			whole := &interrupted{Store: open(t, url(t))}
			run := func(to mutlog.Store) error {
				m := transfer.Migration{From: from, To: to, Source: "test", Workers: 1}
				_, err := m.Run(ctx)
				return err
			}
			must(t, run(whole))
			migrated(t, from, whole.Store, pushes)
			for i := 0; i < 2*whole.changes; i += mutlogtest.Size(7, 1) {
				to := open(t, url(t))
				at, after := 1+i/2, i%2 == 1
				if err := run(&interrupted{Store: to, at: at, after: after}); !errors.Is(err, errInterrupted) {
					t.Fatalf("interrupted at change %d, it ends with %v", at, err)
				}
				begun, ended := i > 0, i == 2*whole.changes-1
				if err := transfer.Unfinished(ctx, to); (begun && !ended) != errors.Is(err, transfer.ErrUnfinished) {
					t.Errorf("interrupted at change %d of %d, after it: %t, the target says of itself: %v", at, whole.changes, after, err)
				}
				if !ended {
					must(t, run(to))
				}
				migrated(t, from, to, pushes)
				must(t, to.Close())
			}
			t.Logf("interrupted before and after each of %d changes, or some of them", whole.changes)
		})
	}
}

// TestRefused: a target that has anything of its own is left alone, and nothing
// is taken from a source that is itself a part.
func TestRefused(t *testing.T) {
	ctx := t.Context()
	newStore := func() store.Store { return open(t, kinds["bolt"](t)) }
	push := func(s mutlog.Store, user mutlog.User) {
		t.Helper()
		_, err := mutlog.New(s, mutlog.DefaultLimits).Push(ctx, user, mutlog.Push{Base: mutlog.Beginning,
			Mutations: []mutlog.Mutation{{Type: mutlog.Create, Resource: "NOTE", Data: []byte("{}")}}})
		must(t, err)
	}
	half := func(s mutlog.Store, source string) {
		t.Helper()
		from := newStore()
		push(from, "somebody")
		m := transfer.Migration{From: from, To: &interrupted{Store: s, at: 3, after: true}, Source: source}
		if _, err := m.Run(ctx); !errors.Is(err, errInterrupted) {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		prepare func(from, to store.Store)
		want    error
	}{
		"a log":                   {func(_, to store.Store) { push(to, "jane") }, transfer.ErrNotEmpty},
		"a record":                {func(_, to store.Store) { setRecord(t, to, mutlog.RecordKey{Kind: "token"}, "v") }, transfer.ErrNotEmpty},
		"a part of another store": {func(_, to store.Store) { half(to, "other") }, transfer.ErrOtherSource},
		"a log of its own":        {func(_, to store.Store) { half(to, "test"); push(to, "jane"); time.Sleep(3 * time.Millisecond) }, transfer.ErrDiverged},
		"a log of a user whom the source does not have": {func(_, to store.Store) { half(to, "test"); push(to, "joe") }, transfer.ErrDiffers},
		"a source that is a part":                       {func(from, _ store.Store) { half(from, "other") }, transfer.ErrUnfinished},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := newStore(), newStore()
			c.prepare(from, to)
			push(from, "jane")
			before := fmt.Sprint(users(t, to), len(records(t, to)))
			m := transfer.Migration{From: from, To: to, Source: "test"}
			if _, err := m.Run(ctx); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if after := fmt.Sprint(users(t, to), len(records(t, to))); errors.Is(c.want, transfer.ErrNotEmpty) && after != before {
				t.Errorf("%s has become %s", before, after)
			}
		})
	}
}

// TestRevoked: a record that the source has had removed while a migration was
// interrupted, such as a token, does not live on in the target.
func TestRevoked(t *testing.T) {
	ctx := t.Context()
	from, to := open(t, kinds["bolt"](t)), open(t, kinds["bolt"](t))
	pushes := fill(t, from, 1, 6, 4)
	m := transfer.Migration{From: from, To: &interrupted{Store: to, at: 8}, Source: "test"}
	if _, err := m.Run(ctx); !errors.Is(err, errInterrupted) {
		t.Fatal(err)
	}
	revoked := records(t, from)[1]
	must(t, from.UpdateRecord(ctx, revoked.RecordKey, func([]byte) ([]byte, error) { return nil, nil }))
	if value, err := to.Record(ctx, revoked.RecordKey); err != nil || value == nil {
		t.Fatalf("it had not been copied: %v", err)
	}
	m.To = to
	_, err := m.Run(ctx)
	must(t, err)
	migrated(t, from, to, pushes)
}

// TestAppend: batches are only added to the log whose continuation they are.
func TestAppend(t *testing.T) {
	ctx := t.Context()
	from, to := open(t, kinds["bolt"](t)), open(t, kinds["bolt"](t))
	fill(t, from, 1, 6, 0)
	const user = "user-0"
	var heads []mutlog.Timestamp
	note := func(b *mutlog.Batch) { heads = append(heads, b.Head()) }
	must(t, transfer.Append(ctx, to, user, transfer.Batches(ctx, from, user, mutlog.Beginning), note))
	must(t, transfer.Append(ctx, to, user, transfer.Batches(ctx, from, user, heads[len(heads)-1]), note))
	if len(heads) < 2 || !slices.IsSorted(heads) {
		t.Errorf("appended %d", heads)
	}
	err := transfer.Append(ctx, to, user, transfer.Batches(ctx, from, user, heads[0]), note)
	if !errors.Is(err, transfer.ErrDiverged) {
		t.Errorf("batches are added behind their like: %v", err)
	}
}

// TestSame: no difference between two logs goes unnoticed.
func TestSame(t *testing.T) {
	ctx := t.Context()
	const user = "jane"
	batch := func(change func(*mutlog.Batch)) *mutlog.Batch {
		b := &mutlog.Batch{Base: mutlog.Beginning, Previous: mutlog.Beginning, Key: "k", Entries: []mutlog.Entry{
			{Mutation: mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", ResourceID: "a", Data: []byte(`{"n":1}`), Timestamp: 10},
				State: []byte(`{"n":1}`), Prev: mutlog.Beginning, Born: 10}}}
		change(b)
		return b
	}
	with := func(b *mutlog.Batch) store.Store {
		s := open(t, kinds["bolt"](t))
		must(t, s.Update(ctx, user, func(tx mutlog.Tx) error { return tx.Append(b) }))
		return s
	}
	from := with(batch(func(*mutlog.Batch) {}))
	must(t, transfer.Same(ctx, from, with(batch(func(*mutlog.Batch) {})), user))
	bounded := with(batch(func(*mutlog.Batch) {}))
	must(t, transfer.SetBounds(ctx, bounded, user, mutlog.Bounds{Pruned: 5, Horizon: mutlog.Beginning}))
	for name, to := range map[string]store.Store{
		"empty":     open(t, kinds["bolt"](t)),
		"bounds":    bounded,
		"key":       with(batch(func(b *mutlog.Batch) { b.Key = "l" })),
		"client":    with(batch(func(b *mutlog.Batch) { b.Client = "c" })),
		"base":      with(batch(func(b *mutlog.Batch) { b.Base = 0 })),
		"id":        with(batch(func(b *mutlog.Batch) { b.Entries[0].ResourceID = "b" })),
		"assigned":  with(batch(func(b *mutlog.Batch) { b.Entries[0].Assigned = true })),
		"data":      with(batch(func(b *mutlog.Batch) { b.Entries[0].Data = []byte(`{"n":2}`) })),
		"state":     with(batch(func(b *mutlog.Batch) { b.Entries[0].State = []byte(`{"n":2}`) })),
		"timestamp": with(batch(func(b *mutlog.Batch) { b.Entries[0].Timestamp, b.Entries[0].Born = 11, 11 })),
		"longer": with(batch(func(b *mutlog.Batch) {
			e := b.Entries[0]
			e.Timestamp, e.Prev = 11, 10
			b.Entries = append(b.Entries, e)
		})),
	} {
		for _, err := range []error{transfer.Same(ctx, from, to, user), transfer.Same(ctx, to, from, user)} {
			if !errors.Is(err, transfer.ErrDiffers) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
