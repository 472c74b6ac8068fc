package main_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tidemark/mutlog"
	"tidemark/store"
	"tidemark/store/postgrestest"
	"tidemark/transfer"
)

// post pushes body and returns the status and whether it was a repeat.
func (p *process) post(t *testing.T, cursor, body string) (status int, replayed bool, answer string) {
	t.Helper()
	res, err := http.Post("http://"+p.addr+"/v1/sync?lastMutationAt="+cursor, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header.Get("Idempotency-Replayed") == "true", string(b)
}

// TestMigrate moves a store from a file to a database, or another file, and
// back: a device repeats its push, and never learns of it.
func TestMigrate(t *testing.T) {
	const note = `{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"text":"milk"}}]}`
	for kind, there := range map[string]func(testing.TB) string{
		"postgres": postgrestest.URL,
		"bolt":     func(t testing.TB) string { return filepath.Join(t.TempDir(), "there.db") },
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir, there := t.TempDir(), there(t)
			server := serve(t, dir, "--store", "here.db")
			status, _, first := server.post(t, "-1", note)
			if status != 200 {
				t.Fatalf("%d %s", status, first)
			}
			if code, out := runs(t, dir, "migrate", "--from", "here.db", "--to", there); code != 75 {
				t.Errorf("from the store of a server that runs: exit code %d, %s", code, out)
			}
			server.stop(t)
			for _, way := range [][2]string{{"here.db", there}, {there, "back.db"}} {
				code, out := runs(t, dir, "migrate", "--from", way[0], "--to", way[1])
				if want := "copied 1 logs: 1 batches of 1 mutations; and "; code != 0 || !strings.HasPrefix(out, want) || !strings.HasSuffix(out, "answer alike\n") {
					t.Fatalf("exit code %d, %s, want %s…", code, out, want)
				}
				server := serve(t, dir, "--store", way[1])
				if status, replayed, again := server.post(t, "-1", note); status != 200 || !replayed || again != first {
					t.Errorf("the repeat of %s is answered %d, replayed: %t, %s", first, status, replayed, again)
				}
				server.stop(t)
				check(t, dir, way[1])
			}
			for _, c := range []struct {
				from, to, says string
				code           int
			}{
				{"here.db", there, "the target is not empty", 73},
				{"nowhere.db", there, "does not exist", 73},
				{"here.db", "ftp://there", "is no kind of store", 73},
			} {
				if code, out := runs(t, dir, "migrate", "--from", c.from, "--to", c.to); code != c.code || !strings.Contains(out, c.says) || strings.Count(out, "\n") != 1 {
					t.Errorf("from %s to %s: exit code %d, %s", c.from, c.to, code, out)
				}
			}
		})
	}
}

// runs runs the binary to its end.
func runs(t *testing.T, dir string, args ...string) (code int, out string) {
	t.Helper()
	cmd := command(t, dir, args...)
	b, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// failing is a store that cannot be read.
type failing struct{ mutlog.Store }

func (failing) View(context.Context, mutlog.User, func(mutlog.Reader) error) error {
	return errors.New("broken")
}

// TestServeRefusesAPart: what a migration has begun and not ended is not served.
func TestServeRefusesAPart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "part.db")
	s, err := store.Open(path, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := transfer.Migration{From: failing{s}, To: s}
	if _, err := m.Run(t.Context()); err == nil {
		t.Fatal("a migration from a store that fails has ended well")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	code, out := runs(t, t.TempDir(), "serve", "--addr", "127.0.0.1:0", "--store", path)
	if code != 65 || !strings.Contains(out, "a migration to it was interrupted; run it again") {
		t.Errorf("exit code %d, %s", code, out)
	}
}
