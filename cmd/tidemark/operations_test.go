package main_test

// docs/operations.md cannot drift either: its commands run here, in order, with the unit of deploy/ in place of systemd.

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// figures are what differs from run to run in the outputs that docs/operations.md shows.
var figures = regexp.MustCompile(`[0-9][0-9.:TZ-]*( (KiB|MiB|GiB|bytes))?`)

func TestOperationsCommands(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("the commands of docs/operations.md need %s, which this machine has not", tool)
		}
		t.Skipf("SKIP: the commands of docs/operations.md did not run, because this machine has no %s", tool)
	}
	const path = "../../docs/operations.md"
	all := examples(readFile(t, path))
	if len(all) < 20 {
		t.Fatalf("%s shows %d commands; are its blocks still marked?", path, len(all))
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "backups"), 0o700); err != nil {
		t.Fatal(err)
	}
	shell := startShell(t, dir)
	shell.run(t, "PATH="+filepath.Dir(binary(t))+":$PATH")
	var server *process
	here := func(text string) string {
		text = strings.NewReplacer("sudo -u tidemark ", "", "/var/lib/tidemark", dir).Replace(text)
		if server != nil {
			text = strings.ReplaceAll(text, "127.0.0.1:8080", server.addr)
		}
		return text
	}
	for _, e := range all {
		switch e.command {
		case "sudo systemctl start tidemark":
			server = serve(t, dir, strings.Fields(here(unitFlags(t)))...)
			shell.run(t, "sync=http://"+server.addr+"/v1/sync")
			continue
		case "sudo systemctl stop tidemark":
			server.stop(t)
			continue
		}
		printed := shell.run(t, here(e.command))
		want := figures.ReplaceAllString(here(strings.Join(unbroken(e.prints), "\n")), "#")
		got := figures.ReplaceAllString(strings.Join(unbroken(lines(printed)), "\n"), "#")
		if diff := cmp.Diff(columns(want), columns(got)); diff != "" {
			t.Errorf("%s:%d: %s\n(- shown, + printed)\n%s\nprinted in full:\n%s", path, e.at, e.command, diff, printed)
		}
	}
	server.stop(t)
	check(t, dir, "tidemark.db")
}

// columns splits lines into words, however far they stand apart.
func columns(text string) (words [][]string) {
	for _, line := range strings.Split(text, "\n") {
		words = append(words, strings.Fields(line))
	}
	return words
}

// unitFlags returns the flags that deploy/tidemark.service starts the server with.
func unitFlags(t *testing.T) string {
	t.Helper()
	_, flags, found := strings.Cut(readFile(t, "../../deploy/tidemark.service"), "ExecStart=/usr/local/bin/tidemark serve ")
	if !found {
		t.Fatal("the unit does not start the server")
	}
	flags, _, _ = strings.Cut(flags, "\n")
	return flags
}

// The unit does not start a server again and again that cannot start: each exit code of that kind, and no other, is
// listed in it and told of on the page.
func TestUnitLeavesAlone(t *testing.T) {
	t.Parallel()
	const codes = "64 65 73 78"
	if !strings.Contains(readFile(t, "../../deploy/tidemark.service"), "\nRestartPreventExitStatus="+codes+"\n") {
		t.Errorf("the unit does not list %s", codes)
	}
	for code := range strings.FieldsSeq(codes) {
		if !strings.Contains(readFile(t, "../../docs/operations.md"), code+")") {
			t.Errorf("the page does not tell of the exit code %s", code)
		}
	}
}

// systemd itself has nothing to say against the unit but that the program is not installed.
func TestUnit(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("the unit cannot be verified, because this machine has no systemd-analyze")
		}
		t.Skip("SKIP: the unit was not verified, because this machine has no systemd-analyze")
	}
	out, _ := exec.Command("systemd-analyze", "verify", "../../deploy/tidemark.service").CombinedOutput()
	for _, line := range lines(string(out)) {
		if strings.Contains(line, "tidemark.service") && !strings.Contains(line, "is not executable") {
			t.Error(line)
		}
	}
}
