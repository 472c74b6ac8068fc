package admin_test

import (
	"bytes"
	"path/filepath"
	"testing"

	"tidemark/admin"
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
