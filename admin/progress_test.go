package admin_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"tidemark/admin"
	"tidemark/mutlog"
	"tidemark/store"
)

// Who exports is told how many batches of how many there are.
func TestExportTellsHowFar(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tidemark.db")
	s, err := store.OpenBolt(path, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, store: &failing{Store: s}}
	r.push("alice", 900)
	s.Close()
	c, err := admin.Connect(t.Context(), path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var text bytes.Buffer
	last, calls := int64(0), 0
	err = c.Export(t.Context(), "alice", &text, func(step string, done, total int64) {
		if step != "exporting" || done < last || done > total || total != 900 {
			t.Errorf("%s went from %d to %d of %d", step, last, done, total)
		}
		last = done
		calls++
	})
	if err != nil || last != 900 || calls < 3 || bytes.Count(text.Bytes(), []byte("\n")) != 902 {
		t.Errorf("%d batches in %d steps, %v", last, calls, err)
	}
}

// An export is whole where its batches cannot be counted, as those of a log that
// a database counts for longer than it may.
func TestExportUncounted(t *testing.T) {
	r := newRig(t)
	r.push("alice", 3)
	want := r.ask("GET", "/v1/user/export?user=alice", none, "", 200)
	r.store.uncounted = mutlog.ErrUnavailable
	got := r.ask("GET", "/v1/user/export?user=alice", none, "", 200)
	if lines := strings.Count(got, "\n"); lines != 5 || lines != strings.Count(want, "\n") {
		t.Errorf("it has %d lines", lines)
	}
}
