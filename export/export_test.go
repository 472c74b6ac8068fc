package export_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/export"
	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store"
	"tidemark/transfer"
)

func open(t *testing.T) *store.Bolt {
	t.Helper()
	s, err := store.OpenBolt(filepath.Join(t.TempDir(), "test.db"), store.BoltOptions{FoldBatches: 9})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fill pushes random batches for alice, in all the ways there are, and returns
// the pushes with their answers.
func fill(t *testing.T, s mutlog.Store, n int) (pushes []mutlog.Push, answers []*mutlog.Pushed) {
	t.Helper()
	log := mutlog.New(s, mutlog.DefaultLimits)
	w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(1, 7)), Resources: 20}
	heads := []mutlog.Timestamp{mutlog.Beginning}
	for i := range n {
		p := mutlog.Push{Base: heads[len(heads)-1], Mutations: w.Batch(8), Client: []string{"", "phone"}[i%2]}
		switch {
		case i == 0:
			p.Mutations = []mutlog.Mutation{{Type: mutlog.Create, Resource: "NOTE", ResourceID: "é 🙂", Data: []byte("{\n\t\"a\": \"\\n \\\"\", \"b\": 1.50 }")}}
		case i%5 == 4:
			p.Key = fmt.Sprint("key ", i)
		case i%7 == 6:
			p.Merge, p.Base = true, heads[len(heads)-2]
			p.Mutations = []mutlog.Mutation{{Type: mutlog.Create, Resource: "NOTE", ResourceID: fmt.Sprint("merged-", i), Data: []byte("{}")}}
		}
		answer, err := log.Push(t.Context(), "alice", p)
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, answer.Head)
		pushes, answers = append(pushes, p), append(answers, answer)
	}
	return pushes, answers
}

func exported(t *testing.T, s mutlog.Store) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := export.Write(t.Context(), s, "alice", &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func batches(t *testing.T, s mutlog.Store, user mutlog.User) (all []*mutlog.Batch) {
	t.Helper()
	for b, err := range transfer.Batches(t.Context(), s, user, mutlog.Beginning) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// A log that is imported elsewhere is the same log: devices go on where they
// were, and pushes that come again are recognised (rules 10 and 11).
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	from, to := open(t), open(t)
	pushes, answers := fill(t, from, 60)
	text := exported(t, from)
	in := export.Import{Store: to}
	sum, err := in.Run(t.Context(), bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	last := answers[len(answers)-1].Head
	if sum.User != "alice" || sum.Head != last || sum.Batches != 60 {
		t.Errorf("it says %+v", sum)
	}
	if diff := cmp.Diff(batches(t, from, "alice"), batches(t, to, "alice")); diff != "" {
		t.Errorf("(- from, + to)\n%s", diff)
	}
	mutlogtest.CheckSound(t, to)
	log := mutlog.New(to, mutlog.DefaultLimits)
	for i, p := range pushes {
		again, err := log.Push(t.Context(), "alice", p)
		if err != nil || !again.Replayed || again.Head != answers[i].Head || cmp.Diff(answers[i].Mutations, again.Mutations) != "" {
			t.Errorf("push %d again: %+v, %v", i, again, err)
		}
	}
	for _, a := range answers {
		was, _ := mutlogtest.Pull(t, mutlog.New(from, mutlog.DefaultLimits), "alice", mutlog.Query{Since: a.Head})
		is, _ := mutlogtest.Pull(t, log, "alice", mutlog.Query{Since: a.Head})
		if diff := cmp.Diff(was, is); diff != "" {
			t.Errorf("a pull of %d (- from, + to)\n%s", a.Head, diff)
		}
	}
	if again := exported(t, to); !bytes.Equal(withoutHeader(again), withoutHeader(text)) {
		t.Error("what was imported is exported as something else")
	}
	if held, err := export.Unfinished(t.Context(), to, "alice"); held || err != nil {
		t.Errorf("it is held: %t, %v", held, err)
	}
	if _, err := in.Run(t.Context(), bytes.NewReader(text)); !errors.Is(err, export.ErrNotEmpty) {
		t.Errorf("a second import: %v", err)
	}
	in.User = "bob"
	if sum, err := in.Run(t.Context(), bytes.NewReader(text)); err != nil || sum.User != "bob" {
		t.Errorf("an import for another user: %+v, %v", sum, err)
	}
	mutlogtest.CheckSound(t, to)
}

// withoutHeader drops what tells the time, and the checksum of that.
func withoutHeader(text []byte) []byte {
	lines := bytes.SplitAfter(text, []byte("\n"))
	return bytes.Join(lines[1:len(lines)-2], nil)
}

// An import that is interrupted anywhere holds its user, and goes on where it
// was; one of another export does not.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	from := open(t)
	fill(t, from, 40)
	text := exported(t, from)
	rnd := rand.New(rand.NewPCG(3, 4))
	for range mutlogtest.Size(2, 8) {
		to := open(t)
		holds := &export.Holds{Store: to, Logger: slog.New(slog.DiscardHandler)}
		in := export.Import{Store: to, Held: holds}
		header := bytes.IndexByte(text, '\n') + 1
		cut := header + rnd.IntN(len(text)-header)
		if _, err := in.Run(t.Context(), bytes.NewReader(text[:cut])); !errors.Is(err, export.ErrFormat) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		again := &export.Holds{Store: to, Logger: holds.Logger} // another server
		if err := again.Refresh(t.Context()); err != nil || !holds.Held("alice") || !again.Held("alice") || again.Held("bob") {
			t.Fatalf("cut at %d: held %t and %t, %v", cut, holds.Held("alice"), again.Held("alice"), err)
		}
		other := bytes.Replace(text, []byte(`"made":"2`), []byte(`"made":"1`), 1)
		if _, err := in.Run(t.Context(), bytes.NewReader(other)); !errors.Is(err, export.ErrOther) {
			t.Fatalf("another export: %v", err)
		}
		if _, err := in.Run(t.Context(), bytes.NewReader(text)); err != nil {
			t.Fatalf("cut at %d, and run again: %v", cut, err)
		}
		if diff := cmp.Diff(batches(t, from, "alice"), batches(t, to, "alice")); diff != "" || holds.Held("alice") {
			t.Fatalf("cut at %d: held %t (- from, + to)\n%s", cut, holds.Held("alice"), diff)
		}
		mutlogtest.CheckSound(t, to)
	}
}

// What was changed is noticed, wherever it is, and is not served.
func TestChanged(t *testing.T) {
	t.Parallel()
	from := open(t)
	fill(t, from, 12)
	text := exported(t, from)
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 30 {
		changed, at := slices.Clone(text), rnd.IntN(len(text))
		changed[at] ^= byte(1 << rnd.IntN(7))
		to := open(t)
		in := export.Import{Store: to}
		_, err := in.Run(t.Context(), bytes.NewReader(changed))
		if err == nil {
			t.Fatalf("a change at %d was not noticed", at)
		}
		head, _, err := export.State(t.Context(), to, "alice")
		if err != nil {
			t.Fatal(err)
		}
		if held, err := export.Unfinished(t.Context(), to, "alice"); err != nil || head != mutlog.Beginning && !held {
			t.Fatalf("a change at %d: a part is served, %v", at, err)
		}
	}
	for _, text := range []string{"", "{}\n", "[1]\n", `{"tidemark":"export","version":2}` + "\n", strings.Repeat("x", 1<<20)} {
		if _, err := export.NewReader(strings.NewReader(text)); err == nil {
			t.Errorf("%.20q was taken for an export", text)
		}
	}
}

// The log of nobody who can be a user is not imported: no check would find it
// sound, and no device could ask for it.
func TestImportOfNobody(t *testing.T) {
	t.Parallel()
	for _, user := range []string{"", "a\nb", strings.Repeat("x", 256)} {
		from, to := open(t), open(t)
		fill(t, from, 2)
		header, _ := json.Marshal(user)
		text := bytes.Replace(exported(t, from), []byte(`"user":"alice"`), append([]byte(`"user":`), header...), 1)
		if _, err := (&export.Import{Store: to}).Run(t.Context(), bytes.NewReader(text)); !errors.Is(err, export.ErrFormat) {
			t.Errorf("of %q: %v", user, err)
		}
		mutlogtest.CheckSound(t, to)
	}
}

// A log takes with it what it has lost, and keeps what was lost here since: the
// gap of a restore of the store that it comes to (rule 17).
func TestBounds(t *testing.T) {
	t.Parallel()
	from, to := open(t), open(t)
	_, answers := fill(t, from, 5)
	head := answers[len(answers)-1].Head
	if err := from.Fence(t.Context(), head+1000); err != nil {
		t.Fatal(err)
	}
	text := exported(t, from)
	if err := to.Fence(t.Context(), head+5000); err != nil {
		t.Fatal(err)
	}
	in := export.Import{Store: to}
	if _, err := in.Run(t.Context(), bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	in = export.Import{Store: from, User: "bob"}
	if _, err := in.Run(t.Context(), bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	if _, bounds, err := export.State(t.Context(), from, "bob"); err != nil || len(bounds.Gaps) != 1 {
		t.Errorf("a copy beside the log has the bounds %+v, %v", bounds, err)
	}
	mutlogtest.CheckSound(t, to)
	log := mutlog.New(to, mutlog.DefaultLimits)
	for _, c := range []struct {
		cursor mutlog.Timestamp
		reason mutlog.Reason
	}{{head, ""}, {head + 500, mutlog.CursorAhead}, {head + 4000, mutlog.CursorAhead}} {
		_, err := log.Pull(t.Context(), "alice", mutlog.Query{Since: c.cursor})
		refusal := &mutlog.OutOfSyncError{}
		if errors.As(err, &refusal); refusal.Reason != c.reason {
			t.Errorf("a pull of %d: %q, want %q", c.cursor, refusal.Reason, c.reason)
		}
	}
}

// An export ends with the head that it began with, and with the context.
func TestWriteEnds(t *testing.T) {
	t.Parallel()
	s := open(t)
	fill(t, s, 20)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := export.Write(ctx, s, "alice", io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := export.Write(t.Context(), s, "alice", failing{}); err != io.ErrShortWrite {
		t.Errorf("got %v", err)
	}
}

// An export of a log that is pruned or erased meanwhile fails: what it says of
// what is lacking would not be true of what it holds.
func TestChangedMeanwhile(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(mutlog.Store) error{
		"pruned": func(s mutlog.Store) error {
			r := mutlog.Retention{History: 1, Tombstones: 1, Receipts: 1}
			done, err := r.Prune(t.Context(), s, "alice", time.Now().Add(time.Hour), func(int) error { return nil })
			if err == nil && done.Dropped == 0 {
				t.Error("nothing was dropped")
			}
			return err
		},
		"erased": func(s mutlog.Store) error { return s.Erase(t.Context(), "alice", 0, func(int) {}) },
	} {
		s := open(t)
		fill(t, s, 400)
		w := &changing{change: func() {
			if err := change(s); err != nil {
				t.Error(err)
			}
		}}
		if err := export.Write(t.Context(), s, "alice", w); !errors.Is(err, export.ErrChanged) {
			t.Errorf("%s: got %v", what, err)
		}
		if _, err := (&export.Import{Store: open(t)}).Run(t.Context(), &w.Buffer); !errors.Is(err, export.ErrFormat) {
			t.Errorf("%s: an import of it: %v", what, err)
		}
	}
}

// changing calls change before the first bytes are written.
type changing struct {
	bytes.Buffer
	change func()
}

func (w *changing) Write(p []byte) (int, error) {
	if w.change != nil {
		w.change()
		w.change = nil
	}
	return w.Buffer.Write(p)
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }
