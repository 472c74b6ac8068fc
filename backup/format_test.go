package backup_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/backup"
	"tidemark/export"
	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store"
)

var golden = flag.Bool("golden", false, "write testdata anew; only before its format is released")

// Backups of every format that was released can be restored; newer ones are
// refused (TestRestoreRefuses).
func TestOldBackups(t *testing.T) {
	t.Parallel()
	const kept, contentsOf = "testdata/backup-1.gz", "testdata/backup-1.json"
	dir := t.TempDir()
	file, path := filepath.Join(dir, "old.backup"), filepath.Join(dir, "tidemark.db")
	if *golden {
		writeGolden(t, kept, contentsOf)
	}
	packed, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Verify(file); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(contentsOf)
	if err != nil {
		t.Fatal(err)
	}
	old, err := store.OpenBolt(file, store.BoltOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), contents(t, old)); diff != "" {
		t.Errorf("(- made, + kept)\n%s", diff)
	}
	before := history(t, old)
	old.Close()
	r, err := backup.Restore(t.Context(), file, path, time.Now(), nil)
	if err != nil || r.Users != 2 || r.Version != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	s := open(t, path)
	if diff := cmp.Diff(before, history(t, s)); diff != "" {
		t.Errorf("(- kept, + restored)\n%s", diff)
	}
	fill(t, s, 9) // and goes on
	mutlogtest.CheckSound(t, s)
}

// contents is all that a store tells of its logs and records.
func contents(t *testing.T, s *store.Bolt) string {
	t.Helper()
	all := map[mutlog.User]any{}
	for user, mutations := range history(t, s) {
		all[user] = mutations
	}
	bounds := map[mutlog.User]export.Bounds{}
	for _, user := range []mutlog.User{"user-0", "user-1", "user-2", "nobody"} {
		_, b, err := export.State(t.Context(), s, user)
		if err != nil {
			t.Fatal(err)
		}
		bounds[user] = b
	}
	var records []mutlog.Record
	for r, err := range s.Records(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	text, err := json.MarshalIndent(map[string]any{"history": all, "bounds": bounds, "records": records}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text) + "\n"
}

func writeGolden(t *testing.T, kept, contentsOf string) {
	t.Helper()
	dir := t.TempDir()
	s, file := open(t, filepath.Join(dir, "tidemark.db")), filepath.Join(dir, "a.backup")
	fill(t, s, 40)
	// One log is pruned, one erased, all are fenced, and there is a record.
	ctx, later := t.Context(), time.Now().Add(time.Hour)
	done, err := mutlog.Retention{History: 1, Tombstones: 1, Receipts: 1}.Prune(ctx, s, "user-0", later, func(int) error { return nil })
	if err != nil || done.Dropped == 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if err := errors.Join(
		s.Erase(ctx, "user-1", mutlog.Timestamp(time.Now().UnixMilli()), func(int) {}),
		s.Fence(ctx, mutlog.Timestamp(later.UnixMilli())),
		s.UpdateRecord(ctx, mutlog.RecordKey{Kind: "kind", Owner: "user-2", Name: "name"}, func([]byte) ([]byte, error) { return []byte("value"), nil }),
	); err != nil {
		t.Fatal(err)
	}
	fill(t, s, 7)
	if err := s.Erase(ctx, "user-1", mutlog.Timestamp(later.UnixMilli()), func(int) {}); err != nil {
		t.Fatal(err)
	}
	if _, err := backup.Make(t.Context(), s, file, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write(content)
	z.Close()
	for name, b := range map[string][]byte{kept: packed.Bytes(), contentsOf: []byte(contents(t, s))} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
