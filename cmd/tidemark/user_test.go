package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tidemark/client"
	"tidemark/mutlog"
)

// An operator looks at a user, takes the log to another store, and fences, while a server runs and while none does.
func TestUser(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := serve(t, dir)
	pushNotes(t, server, 5)
	for _, running := range []bool{true, false} {
		if !running {
			server.stop(t)
		}
		for _, c := range []struct {
			args []string
			code int
			says string
		}{
			{[]string{"user", "show", "default"}, 0, "default: the head of the log is "},
			{[]string{"user", "show", "default"}, 0, "\n(no x-client-id)  "},
			{[]string{"user", "show", "default", "--json"}, 0, `"pushes": 5,`},
			{[]string{"user", "show", "nobody"}, 0, "nobody has no log\nno device was seen\n"},
			{[]string{"user", "export", "nobody", "-"}, 1, "the user has no log"},
			{[]string{"user", "export", "default", "-"}, 0, `{"tidemark":"export","version":1,"user":"default",`},
			{[]string{"user", "import", "none"}, 1, "none"},
			{[]string{"fence", "--at", "yesterday"}, 64, "--at must be a time"},
			{[]string{"backup", map[bool]string{true: "running.backup", false: "stopped.backup"}[running]}, 0, "holds 1 users and 5 batches"},
			{[]string{"user", "show", "default", "--store", "none.db"}, 73, "none.db"},
		} {
			if code, out := tool(t, dir, c.args...); code != c.code || !strings.Contains(out, c.says) {
				t.Errorf("running: %t, %s: exit code %d, want %d\n%s", running, strings.Join(c.args, " "), code, c.code, out)
			}
		}
	}
	if code, out := tool(t, dir, "user", "export", "default", "alice.ndjson"); code != 0 || out != "" {
		t.Fatalf("export: exit code %d\n%s", code, out)
	}
	if info, err := os.Stat(filepath.Join(dir, "alice.ndjson")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode of the export is %v, %v", info.Mode(), err)
	}
	if code, out := tool(t, dir, "user", "export", "default", "alice.ndjson"); code != 1 || !strings.Contains(out, "exists") {
		t.Errorf("a second export: exit code %d\n%s", code, out)
	}
	if code, out := tool(t, dir, "user", "import", "alice.ndjson"); code != 1 || !strings.Contains(out, "there is a log of this user already") {
		t.Errorf("an import into a log: exit code %d\n%s", code, out)
	}

	elsewhere := t.TempDir()
	other := serve(t, elsewhere)
	export := filepath.Join(dir, "alice.ndjson")
	if code, out := tool(t, elsewhere, "user", "import", export, "--as", "alice"); code != 0 || !strings.Contains(out, "the log of alice has 5 batches, 5 mutations") {
		t.Fatalf("import: exit code %d\n%s", code, out)
	}
	device, err := client.New("http://"+other.addr, client.WithUser("alice"))
	if err != nil {
		t.Fatal(err)
	}
	if head, err := device.Head(t.Context()); err != nil || head == mutlog.Beginning {
		t.Errorf("the other server says that the head is %d, %v", head, err)
	}
	if code, out := tool(t, elsewhere, "fence"); code != 0 || !strings.Contains(out, "every log has a gap") {
		t.Errorf("fence: exit code %d\n%s", code, out)
	}
	if code, out := tool(t, elsewhere, "user", "show", "alice"); code != 0 || !strings.Contains(out, "lost: what was later than ") {
		t.Errorf("after the fence: exit code %d\n%s", code, out)
	}
	text, err := os.ReadFile(export)
	if err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(dir, "half.ndjson")
	if err := os.WriteFile(half, text[:len(text)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out := tool(t, elsewhere, "user", "import", half, "--as", "bob"); code != 64 || !strings.Contains(out, "no complete export") {
		t.Errorf("half an import: exit code %d\n%s", code, out)
	}
	bob, err := client.New("http://"+other.addr, client.WithUser("bob"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.Head(t.Context()); err == nil {
		t.Error("a log that is not whole is served")
	}
	other.stop(t)
	check(t, elsewhere, "tidemark.db")
}

// An import of a file that there is not leaves no store behind.
func TestImportOfNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if code, out := tool(t, dir, "user", "import", "none"); code != 1 || exists(dir, "tidemark.db") {
		t.Errorf("exit code %d, and there is a store: %t\n%s", code, exists(dir, "tidemark.db"), out)
	}
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}
