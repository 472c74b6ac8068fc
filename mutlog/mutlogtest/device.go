package mutlogtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"tidemark/mutlog"
)

// Seed returns the seed of a random test, which it logs: a new one each time,
// or TIDEMARK_TEST_SEED, to see again what another run has found.
func Seed(t testing.TB) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("TIDEMARK_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("TIDEMARK_TEST_SEED: %v", err)
		}
	}
	t.Logf("TIDEMARK_TEST_SEED=%d", seed)
	return seed
}

// UnderRaceDetector tells whether the test was built with -race, which makes it
// several times as slow.
func UnderRaceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// Size returns how large a random test is to be: each in the gate, which sets CI
// for every change, and quick for who runs the tests by hand.
func Size(quick, each int) int {
	if os.Getenv("CI") == "true" {
		return each
	}
	return quick
}

// Clock is a clock that stands where it is set.
type Clock struct {
	mu sync.Mutex
	ms int64
}

// Now returns the time of c; it is a mutlog.Log's Now.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.UnixMilli(c.ms)
}

// Set sets c to a time in Unix milliseconds.
func (c *Clock) Set(ms int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ms = ms
}

// IDs returns a mutlog.Log's NewID: the same identifiers in every run.
func IDs() func() string {
	n := 0
	return func() string {
		n++
		return fmt.Sprintf("assigned-%d", n)
	}
}

// Writer makes random mutations of a number of resources.
type Writer struct {
	Rand      *rand.Rand
	Resources int
	Pad       int // bytes that are added to the data of a CREATE
}

// Mutations returns n random mutations: of all types, on resources that are
// live, deleted or were never there, the same one several times.
func (w *Writer) Mutations(n int) []mutlog.Mutation {
	mutations := make([]mutlog.Mutation, n)
	for i := range mutations {
		m := &mutations[i]
		id := w.Rand.IntN(w.Resources)
		m.Resource = [...]string{"NOTE", "BOOKMARK", "TAG_2"}[id%3]
		m.ResourceID = fmt.Sprintf("nr-%d", id)
		switch w.Rand.IntN(8) {
		case 0:
			m.Type = mutlog.Delete
		case 1, 2:
			m.Type, m.Data = mutlog.Create, w.padded()
		case 3:
			m.Type, m.Data = mutlog.Create, w.padded()
			if w.Rand.IntN(4) == 0 {
				m.ResourceID = ""
			}
		default:
			m.Type, m.Data = mutlog.Update, w.object(2, true)
		}
	}
	return mutations
}

// Batch returns up to most random mutations, few more often than many.
func (w *Writer) Batch(most int) []mutlog.Mutation {
	return w.Mutations(1 + w.Rand.IntN(1+w.Rand.IntN(most)))
}

// padded returns a random object that is large if w pads.
func (w *Writer) padded() []byte {
	object := w.object(2, false)
	if w.Pad > 0 {
		object = fmt.Appendf(nil, `{"pad":"%0*d","in":%s}`, w.Pad, w.Rand.Int(), object)
	}
	return object
}

// object returns a random object; with a null now and then if it is a patch.
func (w *Writer) object(depth int, patch bool) []byte {
	object := []byte{'{'}
	for _, name := range w.Rand.Perm(5)[:w.Rand.IntN(5)] {
		if len(object) > 1 {
			object = append(object, ", "...)
		}
		object = append(object, [...]string{`"a"`, `"b"`, `"\u00e9"`, `"title"`, `"x y"`}[name]...)
		object = append(object, ':')
		switch kind := w.Rand.IntN(6); {
		case kind == 0 && patch:
			object = append(object, "null"...)
		case kind <= 1 && depth > 0:
			object = append(object, w.object(depth-1, patch)...)
		case kind == 2:
			object = fmt.Appendf(object, `[%d, 1.50, {"n":null}]`, w.Rand.IntN(10))
		case kind == 3:
			object = fmt.Appendf(object, "%d12345678901234567890.10", w.Rand.IntN(9)+1)
		default:
			object = fmt.Appendf(object, `"text\n%d \ud83d\ude00"`, w.Rand.IntN(1000))
		}
	}
	return append(object, '}')
}

// Device is a client that keeps a copy of a log by pulling.
type Device struct {
	Cursor mutlog.Timestamp
	Rows   map[mutlog.Ref]string // the data of each live resource
}

// NewDevice returns a device that holds nothing.
func NewDevice() *Device {
	return &Device{Cursor: mutlog.Beginning, Rows: map[mutlog.Ref]string{}}
}

// Apply puts mutations that a pull gave in place.
func (d *Device) Apply(mutations []mutlog.Mutation) {
	for _, m := range mutations {
		if m.Type == mutlog.Delete {
			delete(d.Rows, m.Ref())
		} else {
			d.Rows[m.Ref()] = string(m.Data)
		}
	}
}

// Pull brings d up to the log in one pull.
func (d *Device) Pull(ctx context.Context, log *mutlog.Log, user mutlog.User) error {
	changes, err := log.Pull(ctx, user, mutlog.Query{Since: d.Cursor})
	if err != nil {
		return err
	}
	if d.Cursor == mutlog.Beginning {
		clear(d.Rows) // a snapshot is the whole truth
	}
	for mutations, err := range changes.All(ctx) {
		if err != nil {
			return err
		}
		d.Apply(mutations)
	}
	d.Cursor = changes.Head
	return nil
}

// PullPages brings d up to the log in keyset pages of limit() changes. Pages
// of a snapshot do not tell of what is deleted between them, so the cursor
// that a device has then is the head that the first page told.
func (d *Device) PullPages(ctx context.Context, log *mutlog.Log, user mutlog.User, limit func() int) error {
	q := mutlog.Query{Since: d.Cursor, After: d.Cursor}
	cursor := mutlog.Beginning
	for first := true; ; first = false {
		q.Limit = limit()
		changes, err := log.Pull(ctx, user, q)
		if err != nil {
			return err
		}
		for mutations, err := range changes.All(ctx) {
			if err != nil {
				return err
			}
			d.Apply(mutations)
		}
		if first || q.Since != mutlog.Beginning {
			cursor = changes.Head
		}
		if !changes.HasMore {
			d.Cursor = cursor
			return nil
		}
		q.After = changes.NextAfter
	}
}

// Collect returns all that a pull gives.
func Collect(ctx context.Context, changes *mutlog.Changes) ([]mutlog.Mutation, error) {
	all := []mutlog.Mutation{}
	for mutations, err := range changes.All(ctx) {
		if err != nil {
			return nil, err
		}
		all = append(all, mutations...)
	}
	return all, nil
}

// Pull returns all that a pull of q gives.
func Pull(t testing.TB, log *mutlog.Log, user mutlog.User, q mutlog.Query) ([]mutlog.Mutation, *mutlog.Changes) {
	t.Helper()
	changes, err := log.Pull(t.Context(), user, q)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Collect(t.Context(), changes)
	if err != nil {
		t.Fatal(err)
	}
	return all, changes
}

// CheckSound fails the test if store breaks its structure or a rule.
func CheckSound(t testing.TB, store mutlog.Store) {
	t.Helper()
	err := mutlog.Check(context.Background(), store, func(problem string) { t.Errorf("check: %s", problem) })
	if err != nil {
		t.Errorf("check: %v", err)
	}
}
