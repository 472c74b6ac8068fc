package export_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/export"
	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// A log that was pruned is, imported elsewhere, as it was: gaps between its
// mutations, horizon and all; every cursor is told the same, and what was
// forgotten is refused (rule 19).
func TestPruned(t *testing.T) {
	t.Parallel()
	from, to := open(t), open(t)
	pushes, answers := fill(t, from, 60)
	retention := mutlog.Retention{History: time.Hour, Tombstones: time.Hour, Receipts: time.Hour}
	done, err := retention.Prune(t.Context(), from, "alice", time.Now().Add(2*time.Hour), func(int) error { return nil })
	if err != nil || done.Dropped == 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	log := mutlog.New(from, mutlog.DefaultLimits)
	later, err := log.Push(t.Context(), "alice", mutlog.Push{Base: answers[len(answers)-1].Head, Mutations: pushes[0].Mutations, Key: "later"})
	if err != nil {
		t.Fatal(err)
	}
	text := exported(t, from)
	in := export.Import{Store: to}
	if _, err := in.Run(t.Context(), bytes.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	mutlogtest.CheckSound(t, to)
	_, was, err := export.State(t.Context(), from, "alice")
	if err != nil {
		t.Fatal(err)
	}
	_, is, err := export.State(t.Context(), to, "alice")
	if err != nil || cmp.Diff(was, is) != "" || was.Horizon <= 0 || was.Pruned <= 0 {
		t.Errorf("the bounds %+v have become %+v, %v", was, is, err)
	}
	if diff := cmp.Diff(batches(t, from, "alice"), batches(t, to, "alice")); diff != "" {
		t.Errorf("(- from, + to)\n%s", diff)
	}
	copied := mutlog.New(to, mutlog.DefaultLimits)
	for i, a := range answers {
		for _, cursor := range []mutlog.Timestamp{a.Head - 1, a.Head} {
			if diff := cmp.Diff(told(t, log, cursor), told(t, copied, cursor)); diff != "" {
				t.Errorf("a pull of %d (- from, + to)\n%s", cursor, diff)
			}
		}
		if p := pushes[i]; !p.Merge {
			var refusal *mutlog.OutOfSyncError
			if again, err := copied.Push(t.Context(), "alice", p); !errors.As(err, &refusal) {
				t.Errorf("push %d, which was forgotten, again: %+v, %v", i, again, err)
			}
		}
	}
	again, err := copied.Push(t.Context(), "alice", mutlog.Push{Base: answers[len(answers)-1].Head, Mutations: pushes[0].Mutations, Key: "later"})
	if err != nil || !again.Replayed || again.Head != later.Head {
		t.Errorf("the push after the pruning again: %+v, %v", again, err)
	}
}

// told is what a pull is answered.
func told(t *testing.T, log *mutlog.Log, cursor mutlog.Timestamp) any {
	t.Helper()
	changes, err := log.Pull(t.Context(), "alice", mutlog.Query{Since: cursor})
	if err != nil {
		return err.Error()
	}
	all, err := mutlogtest.Collect(t.Context(), changes)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
