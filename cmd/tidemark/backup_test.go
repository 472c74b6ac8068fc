package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tidemark/client"
	"tidemark/mutlog"
)

// tool runs a command of the binary to its end, and returns its exit code and what it printed.
func tool(t testing.TB, dir string, args ...string) (code int, out string) {
	t.Helper()
	cmd := command(t, dir, args...)
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(b)
}

// pushNotes pushes n notes as a device of the server does.
func pushNotes(t testing.TB, p *process, n int) {
	t.Helper()
	device, err := client.New("http://" + p.addr)
	if err != nil {
		t.Fatal(err)
	}
	head, err := device.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		pushed, err := device.Push(t.Context(), client.Push{Base: head, Mutations: []mutlog.Mutation{
			{Type: mutlog.Create, Resource: "NOTE", ResourceID: fmt.Sprint(i), Data: []byte(`{"text":"milk"}`)}}})
		if err != nil {
			t.Fatal(err)
		}
		head = pushed.Head
	}
}

// A server makes backups by itself, each a sound store, and the tools make them of a stopped one.
func TestBackup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "backups"), 0o700); err != nil {
		t.Fatal(err)
	}
	server := serve(t, dir, "--backup-dir", "backups", "--backup-every", "1s", "--backup-keep", "2")
	pushNotes(t, server, 5)
	var made []string
	waitFor(t, "a backup with the notes", func() bool {
		made, _ = filepath.Glob(filepath.Join(dir, "backups", "tidemark-*.backup"))
		return len(made) > 1
	})
	server.stop(t)
	made, _ = filepath.Glob(filepath.Join(dir, "backups", "tidemark-*.backup"))
	check(t, dir, made[len(made)-1])
	if strings.Contains(server.stderr.String(), "level=ERROR") {
		t.Errorf("the server complained:\n%s", server.stderr.String())
	}

	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"backup", "mine.backup"}, 0, "mine.backup holds 1 users and 5 batches"},
		{[]string{"backup", "mine.backup"}, 1, "mine.backup exists"},
		{[]string{"backup", "tidemark.db"}, 1, "tidemark.db exists"},
		{[]string{"backup", "other.backup", "--store", "none.db"}, 73, "none.db"},
		{[]string{"backup", "no/such/dir"}, 1, "no such file"},
		{[]string{"check", "--store", "mine.backup"}, 0, "mine.backup is sound"},
		{[]string{"compact"}, 0, "tidemark.db had "},
		{[]string{"compact", "--store", "none.db"}, 73, "none.db"},
		{[]string{"check"}, 0, "tidemark.db is sound"},
		{[]string{"serve", "--addr", "127.0.0.1:0", "--backup-dir", "none"}, 64, "none is no directory"},
		{[]string{"serve", "--backup-every", "1ms"}, 64, "--backup-every"},
	} {
		if code, out := tool(t, dir, c.args...); code != c.code || !strings.Contains(out, c.says) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: exit code %d, want %d\n%s", strings.Join(c.args, " "), code, c.code, out)
		}
	}
	code, out := tool(t, dir, "restore", "mine.backup")
	kept, _ := filepath.Glob(filepath.Join(dir, "tidemark.db.before-restore-*"))
	if code != 0 || len(kept) != 1 || !strings.Contains(out, "1 users, 5 batches\n") || !strings.Contains(out, filepath.Base(kept[0])) {
		t.Errorf("restore: exit code %d, kept %q\n%s", code, kept, out)
	}
	check(t, dir, kept[0])
	if code, out := tool(t, dir, "restore", filepath.Base(kept[0])); code != 65 || !strings.Contains(out, "is no complete backup") {
		t.Errorf("restore of a plain store: exit code %d\n%s", code, out)
	}
	server = serve(t, dir)
	if code, out := tool(t, dir, "restore", "mine.backup"); code != 75 || !strings.Contains(out, "stop the server first") {
		t.Errorf("restore beside a server: exit code %d\n%s", code, out)
	}
	if code, out := tool(t, dir, "compact"); code != 75 || !strings.Contains(out, "stop the server first") {
		t.Errorf("compact beside a server: exit code %d\n%s", code, out)
	}
	if code, out := tool(t, dir, "check"); code != 75 || !strings.Contains(out, "stop the server first, or check a backup") {
		t.Errorf("check beside a server: exit code %d\n%s", code, out)
	}
	if code, out := tool(t, dir, "serve", "--addr", "127.0.0.1:0"); code != 75 || out != "tidemark: store tidemark.db is in use by another process\n" {
		t.Errorf("a second server: exit code %d\n%s", code, out)
	}
	pushNotes(t, server, 1)
	server.stop(t)
	check(t, dir, "tidemark.db")
}
