package main_test

import (
	"path/filepath"
	"strings"
	"testing"

	"tidemark/store/postgrestest"
)

// Each operator command works on a database, beside its servers and without
// one, or says that it is for files: in one line, without the password.
func TestCommandsOnDatabase(t *testing.T) {
	t.Parallel()
	dir, url := t.TempDir(), postgrestest.URL(t)
	server := serve(t, dir, "--store", url)
	pushNotes(t, server, 3)
	for _, c := range []struct {
		args []string
		says string
	}{
		{[]string{"user", "show", "default"}, "default: the head of the log is "},
		{[]string{"user", "export", "default", "default.ndjson"}, ""},
		{[]string{"user", "import", "default.ndjson", "--as", "bob"}, "the log of bob has 3 batches, 3 mutations"},
		{[]string{"user", "show", "bob"}, "bob: the head of the log is "},
		{[]string{"fence"}, "every log has a gap"},
		{[]string{"user", "show", "bob"}, "lost: what was later than "},
		{[]string{"user", "erase", "bob", "--yes"}, "erased 3 mutations and 0 tokens of bob; VACUUM FULL removes"},
		{[]string{"user", "show", "bob"}, "bob has no log"},
		{[]string{"token", "create", "--user", "alice"}, "tm_"},
		{[]string{"token", "list"}, "alice"},
		{[]string{"token", "revoke", "--user", "alice"}, "revoked 1 "},
		{[]string{"check"}, "sound"},
	} {
		if code, out := tool(t, dir, append(c.args, "--store", url)...); code != 0 || !strings.Contains(out, c.says) {
			t.Errorf("%s: exit code %d\n%s", strings.Join(c.args, " "), code, out)
		}
	}
	server.stop(t)

	const unreachable = "postgres://jane:hunter2@127.0.0.1:1/sync?password=hunter2"
	for _, c := range []struct {
		args []string
		url  string
		says string
	}{
		{[]string{"compact"}, unreachable, "VACUUM FULL"},
		{[]string{"restore", "a.backup"}, unreachable, "tidemark fence"},
		{[]string{"fence"}, unreachable, "127.0.0.1:1"},
		{[]string{"backup", "a.backup"}, url, "pg_dump"},
		{[]string{"serve", "--addr", "127.0.0.1:0", "--backup-dir", "."}, url, "pg_dump"},
	} {
		code, out := tool(t, dir, append(c.args, "--store", c.url)...)
		if code == 0 || !strings.Contains(out, c.says) || strings.Count(out, "\n") != 1 || strings.Contains(out, "hunter2") {
			t.Errorf("%s: exit code %d\n%s", strings.Join(c.args, " "), code, out)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) != 1 {
		t.Errorf("there is %q beside the export, %v", left, err)
	}
}
