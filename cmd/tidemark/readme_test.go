package main_test

// README cannot drift: every command that it shows runs here, in order, with a real bash and curl against the real
// server, and must print what README shows; its tables must say what the binary and the contract say.

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const readmePath = "../../README.md"

// example is one command that README shows.
type example struct {
	at      int      // its line
	command string   // as it would be typed
	prints  []string // what README shows under it
	silent  bool     // README shows no output, and none is compared: a block of commands only
}

// examples finds the commands of README. In a block marked "console", a line that begins with "$ " is a command and
// what follows is its output; in a block marked "sh" every line is a command. A command goes on in the next line after
// a backslash and inside single quotes. In an output, an indented line continues the one above: README breaks long lines.
func examples(readme string) (found []example) {
	fence := ""
	for i, line := range strings.Split(readme, "\n") {
		if mark, isFence := strings.CutPrefix(line, "```"); isFence {
			if fence == "" {
				fence = mark + "```"
			} else {
				fence = ""
			}
			continue
		}
		typed, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case fence != "sh```" && fence != "console```":
			continue
		case len(found) > 0 && unfinished(found[len(found)-1].command):
			found[len(found)-1].command += "\n" + line
		case fence == "sh```" && strings.TrimSpace(line) != "":
			found = append(found, example{at: i + 1, command: line, silent: true})
		case isCommand:
			found = append(found, example{at: i + 1, command: typed})
		case len(found) > 0:
			last := &found[len(found)-1]
			last.prints = append(last.prints, line)
		}
	}
	return found
}

// unfinished tells whether a shell would wait for the next line of the command.
func unfinished(command string) bool {
	return strings.HasSuffix(command, `\`) || strings.Count(command, "'")%2 == 1
}

// unbroken puts lines that README breaks together again.
func unbroken(lines []string) (whole []string) {
	for _, line := range lines {
		if n := len(whole); n > 0 && strings.HasPrefix(line, " ") {
			whole[n-1] += strings.TrimSpace(line)
		} else {
			whole = append(whole, line)
		}
	}
	return whole
}

var goRun = regexp.MustCompile(`(^|\$\()go run \./cmd/tidemark\b`)

func TestReadmeCommands(t *testing.T) { runExamples(t, readmePath, 10) }

// TestExampleCommands: what the README files of the examples show is so, too.
func TestExampleCommands(t *testing.T) { runExamples(t, "../../examples/notes/README.md", 4) }

// runExamples runs all commands that a README file shows, at least so many.
func runExamples(t *testing.T, path string, least int) {
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("README's commands need %s, which this machine has not", tool)
		}
		t.Skipf("SKIP: README's commands did not run, because this machine has no %s", tool)
	}
	all := examples(readFile(t, path))
	if len(all) < least {
		t.Fatalf("%s shows %d commands; are its blocks still marked?", path, len(all))
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS("../../examples")); err != nil {
		t.Fatal(err)
	}
	shell := startShell(t, dir)
	// README shows the values of one run, this is another one: what differs has a name on each side, and the sides
	// are compared under their names. A command that README shows with a value runs with the value of this run.
	shown, real := newNames(""), newNames("")
	for _, e := range all {
		command, err := real.show(shown.hide(e.command))
		if err != nil {
			t.Fatalf("%s:%d: %s: %v", path, e.at, e.command, err)
		}
		var printed string
		if args, isServe := strings.CutPrefix(command, "go run ./cmd/tidemark serve"); isServe {
			server := serve(t, dir, strings.Fields(args)...)
			waitFor(t, "what the server prints at its start", func() bool {
				printed = server.stdout.String()
				return strings.Count(printed, "\n") >= len(e.prints)
			})
		} else {
			printed = shell.run(t, goRun.ReplaceAllString(command, "${1}"+binary(t)))
		}
		if e.silent {
			continue
		}
		want := shown.hide(strings.Join(unbroken(e.prints), "\n"))
		got := real.hide(strings.Join(unbroken(lines(printed)), "\n"))
		if diff := cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")); diff != "" {
			t.Errorf("%s:%d: %s\n(- shown, + printed)\n%s\nprinted in full:\n%s", path, e.at, e.command, diff, printed)
		}
	}
}

// lines splits what a command printed.
func lines(printed string) []string {
	printed = strings.TrimSuffix(strings.ReplaceAll(printed, "\r\n", "\n"), "\n")
	if printed == "" {
		return nil
	}
	return strings.Split(printed, "\n")
}

// shell is a bash that keeps its variables and functions from one command to the next.
type shell struct {
	process *os.Process
	in      io.Writer
	out     *bufio.Reader
}

func startShell(t *testing.T, dir string) *shell {
	t.Helper()
	bash := exec.Command("bash", "--noprofile", "--norc")
	bash.Dir = dir
	in, err := bash.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := bash.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := bash.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = bash.Wait()
	})
	return &shell{bash.Process, in, bufio.NewReader(out)}
}

// run runs a command, which must succeed, and returns what it printed on either stream.
func (s *shell) run(t *testing.T, command string) string {
	t.Helper()
	const end = "-- end of the command, status "
	defer time.AfterFunc(patience, func() { _ = s.process.Kill() }).Stop()
	fmt.Fprintf(s.in, "{ %s\n} 2>&1 </dev/null\nprintf '%%s%%d\\n' '%s' $?\n", command, end)
	var printed strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			t.Fatalf("%s: the shell ended: %v", command, err)
		}
		text, status, ended := strings.Cut(line, end)
		printed.WriteString(text)
		if ended {
			if status != "0\n" {
				t.Errorf("%s: exit status %s%s", command, status, printed.String())
			}
			return printed.String()
		}
	}
}

// TestReadmeFlags holds the table of flags against what the binary says about itself, word for word.
func TestReadmeFlags(t *testing.T) {
	help, err := command(t, t.TempDir(), "serve", "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("serve --help: %v\n%s", err, help)
	}
	_, flags, _ := strings.Cut(string(help), "Show context-sensitive help.") // the text of --help itself
	want := [][]string{}
	for _, m := range flagHelp.FindAllStringSubmatch(strings.Join(strings.Fields(flags), " "), -1) {
		want = append(want, []string{m[1], m[4], strings.Trim(m[2], `"`), m[3]})
	}
	if diff := cmp.Diff(want, table(t, "Flags")); diff != "" {
		t.Errorf("flags (- serve --help, + README)\n%s", diff)
	}
}

// flagHelp finds a flag, its default, what it means and its environment variable in a help text without line breaks.
// A default begins with a digit or is in quotation marks; a word in capitals stands for a value that has none. Dots
// say that there may be several.
var flagHelp = regexp.MustCompile(`(--[a-z-]+)(?:=(?:("[^"]*"|[0-9][^ ]*?)|[A-Z]+)(?:,\.\.\.)?)? ([^$]*?) \(\$(TIDEMARK_[A-Z_]+)\)\.`)

// TestReadmeCommandTable: each command that help lists is in README's section about them.
func TestReadmeCommandTable(t *testing.T) {
	help, err := command(t, t.TempDir(), "help").CombinedOutput()
	if err != nil {
		t.Fatalf("help: %v\n%s", err, help)
	}
	_, list, _ := strings.Cut(string(help), "\nCommands:\n")
	_, section, _ := strings.Cut(readFile(t, readmePath), "\n## Commands\n")
	section, _, _ = strings.Cut(section, "\n## ")
	names := regexp.MustCompile(`(?m)^  ([a-z]+)`).FindAllStringSubmatch(list, -1)
	if len(names) < 10 {
		t.Fatalf("help lists only %d commands", len(names))
	}
	for _, name := range names {
		if !regexp.MustCompile("`" + name[1] + "[ `]").MatchString(section) {
			t.Errorf("README's section about the commands lacks %s", name[1])
		}
	}
}

// TestReadmeErrors holds the table of errors against the contract that the server publishes.
func TestReadmeErrors(t *testing.T) {
	var want, got []string
	for _, m := range regexp.MustCompile(`\bcode: \{ const: (\w+) \}`).FindAllStringSubmatch(readFile(t, "../../openapi.yaml"), -1) {
		want = append(want, m[1])
	}
	for _, row := range table(t, "Errors") {
		got = append(got, row[1])
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(slices.Compact(want), got); diff != "" {
		t.Errorf("error codes (- openapi.yaml, + README)\n%s", diff)
	}
}

// table returns the rows of the first table under a heading of README, without its head and without back-quotes.
func table(t *testing.T, heading string) (rows [][]string) {
	t.Helper()
	_, section, found := strings.Cut(readFile(t, readmePath), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("README has no section %q", heading)
	}
	for _, line := range strings.Split(section, "\n") {
		if !strings.HasPrefix(line, "|") {
			if rows != nil {
				break
			}
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(strings.TrimSpace(cells[i]), "`")
		}
		rows = append(rows, cells)
	}
	if len(rows) < 3 {
		t.Fatalf("README's section %q has no table", heading)
	}
	return rows[2:]
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
