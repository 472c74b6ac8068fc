package main_test

// Tokens as operators handle them: with a server on the store, without one, and where one has died.

import (
	"encoding/json"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"tidemark/store"
)

var tokenForm = regexp.MustCompile(`^tm_([0-9A-HJKMNP-TV-Z]{26})_[A-Za-z0-9_-]{43}\n$`)

// run runs a command and returns what it prints and its exit code.
func run(t testing.TB, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err strings.Builder
	cmd := command(t, dir, args...)
	cmd.Stdout, cmd.Stderr = &out, &err
	_ = cmd.Run() // the exit code tells
	return out.String(), err.String(), cmd.ProcessState.ExitCode()
}

// newToken makes a token and returns its text and id.
func newToken(t testing.TB, dir string, args ...string) (text, id string) {
	t.Helper()
	out, said, code := run(t, dir, append([]string{"token", "create"}, args...)...)
	m := tokenForm.FindStringSubmatch(out)
	if code != 0 || m == nil || !strings.Contains(said, m[1]) {
		t.Fatalf("token create %v: exit code %d\n%s%s", args, code, out, said)
	}
	return strings.TrimSpace(out), m[1]
}

// says waits until a server has printed text: it says more than where it listens.
func (p *process) says(t testing.TB, text string) {
	t.Helper()
	waitFor(t, "the server to say "+text, func() bool { return strings.Contains(p.stdout.String(), text) })
}

// status asks a server with a token and returns the status of the answer.
func status(t testing.TB, p *process, token string) int {
	t.Helper()
	r, err := http.NewRequest("GET", "http://"+p.addr+"/v1/sync?mutationsSince=0", nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("x-auth-token", token)
	}
	r.Close = true
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	return res.StatusCode
}

func TestTokenCommands(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "tidemark.db.sock")

	// There is no store yet.
	for _, args := range [][]string{{"token", "list"}, {"token", "revoke", "01KFTAMTQV8R3BDHE1Y5KZJ2NG"}} {
		if out, said, code := run(t, dir, args...); code != 73 || !strings.Contains(said, "no such file") {
			t.Errorf("%v without a store: exit code %d\n%s%s", args, code, out, said)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "tidemark.db")); err == nil {
		t.Fatal("looking at the tokens of no store has made one")
	}

	// No server has the store.
	alice, aliceID := newToken(t, dir, "--user", "alice", "--expires", "720h")
	read, readID := newToken(t, dir, "--user", "bob", "--scopes", "sync:read,notes", "--expires", "2999-01-31")

	// A server has it.
	server := serve(t, dir)
	server.says(t, "Everybody needs a token")
	if info, err := os.Stat(socket); err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("the control socket: %v, %v", info, err)
	}
	carol, carolID := newToken(t, dir, "--user", "carol")
	for token, want := range map[string]int{alice: 200, read: 200, carol: 200, "": 401, alice + "x": 401} {
		if got := status(t, server, token); got != want {
			t.Errorf("the token %q: %d, want %d", token, got, want)
		}
	}
	for _, wrong := range []string{carol[:len(carol)-1], carol + "x", "tm_" + carolID, strings.ToLower(carolID), "x"} { // slips of whoever copies it
		if out, said, code := run(t, dir, "token", "revoke", wrong); code != 1 || !strings.Contains(said, "there is no such token") || strings.Contains(out+said, carol[30:70]) {
			t.Errorf("revoke %s: exit code %d\n%s%s", wrong, code, out, said)
		}
	}
	if out, said, code := run(t, dir, "token", "revoke", carol); code != 0 || out != "revoked "+carolID+"\n" { // by the whole of it
		t.Errorf("revoke: exit code %d\n%s%s", code, out, said)
	}
	if got := status(t, server, carol); got != 401 {
		t.Errorf("a revoked token: %d", got)
	}
	if out, said, code := run(t, dir, "token", "revoke", carolID); code != 1 || !strings.Contains(said, "there is no such token") {
		t.Errorf("revoke twice: exit code %d\n%s%s", code, out, said)
	}
	list := func() []string {
		out, said, code := run(t, dir, "token", "list")
		rows := strings.Split(strings.TrimSpace(out), "\n")
		if code != 0 || !strings.HasPrefix(rows[0], "ID  ") {
			t.Fatalf("list: exit code %d\n%s%s", code, out, said)
		}
		return rows[1:]
	}
	rows := list()
	if len(rows) != 2 || !regexp.MustCompile(`^`+aliceID+`  alice  sync  +\S+Z  \S+Z  `).MatchString(rows[0]) ||
		!regexp.MustCompile(`^`+readID+`  bob    notes,sync:read  \S+Z  2999-01-31T00:00Z  `).MatchString(rows[1]) {
		t.Errorf("the list:\n%s", strings.Join(rows, "\n"))
	}
	out, _, _ := run(t, dir, "token", "list", "--json")
	var listed struct{ Tokens []map[string]any }
	if err := json.Unmarshal([]byte(out), &listed); err != nil || len(listed.Tokens) != 2 || listed.Tokens[0]["id"] != aliceID || listed.Tokens[0]["user"] != "alice" {
		t.Errorf("%v: %s", err, out)
	}
	for _, token := range []string{alice, carol} {
		if log := server.stderr.String(); strings.Contains(out, token[30:70]) || strings.Contains(log, token[30:70]) || !strings.Contains(log, carolID) {
			t.Error("the list or the log holds the secret of a token, or the log nothing of the one that was revoked")
		}
	}

	// The server has died.
	server.kill(t)
	if _, err := os.Stat(socket); err != nil {
		t.Errorf("the kill has tidied up: %v", err)
	}
	if rows := list(); len(rows) != 2 {
		t.Errorf("after a kill: %s", rows)
	}
	server = serve(t, dir)
	if out, said, code := run(t, dir, "token", "revoke", "--user", "alice"); code != 0 || !strings.HasPrefix(out, "revoked 1 API tokens of alice") {
		t.Errorf("revoke --user: exit code %d\n%s%s", code, out, said)
	}
	if got := status(t, server, alice); got != 401 {
		t.Errorf("a token of a user whose tokens were revoked: %d", got)
	}
	server.stop(t)
	if _, err := os.Stat(socket); err == nil {
		t.Error("the server has left its control socket")
	}
	if leftover, _ := filepath.Glob(filepath.Join(dir, ".tidemark-*")); leftover != nil {
		t.Errorf("left behind: %s", leftover)
	}
	check(t, dir, "tidemark.db")
}

// The first token closes a running server at once, and it stays closed without it, restarted on whatever address.
func TestTokenClosesServer(t *testing.T) {
	dir := t.TempDir()
	if out, said, code := run(t, dir, "serve", "--addr", "0.0.0.0:0"); code != 64 || !strings.Contains(said, "not a loopback address") {
		t.Errorf("an open server on every address: exit code %d\n%s%s", code, out, said)
	}
	server := serve(t, dir)
	server.says(t, "There is no authentication")
	if got := status(t, server, ""); got != 200 {
		t.Errorf("an open server: %d", got)
	}
	token, id := newToken(t, dir, "--user", "alice")
	if got := status(t, server, ""); got != 401 {
		t.Errorf("after the first token: %d", got)
	}
	if got := status(t, server, token); got != 200 {
		t.Errorf("with the first token: %d", got)
	}
	run(t, dir, "token", "revoke", id)
	for range 2 {
		for _, with := range []string{"", token} {
			if got := status(t, server, with); got != 401 {
				t.Errorf("after the last token was revoked: %d", got)
			}
		}
		server.stop(t)
		server = serve(t, dir, "--addr", "0.0.0.0:0") // which only a closed server may
	}
	server.stop(t)

	server = serve(t, t.TempDir(), "--addr", "0.0.0.0:0", "--insecure-open")
	server.says(t, "WARNING: there is no authentication")
}

// Whatever is wrong, the command says so in a line, and nothing has changed.
func TestTokenCommandErrors(t *testing.T) {
	dir := t.TempDir()
	create := func(args ...string) []string {
		return append([]string{"token", "create", "--user", "alice"}, args...)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"token", "create"}, "--user"},
		{[]string{"token", "create", "--user", ""}, "a user is"},
		{create("--expires", "soon"), "--expires must be"},
		{create("--expires", "2020-01-01"), "expired already"},
		{create("--scopes", "a b"), "is no scope"},
		{create("--scopes", "notes"), "needs the scope"},
		{[]string{"token", "create", "--user", "jwt:x y"}, "those of JWTs"},
		{[]string{"token", "revoke"}, "give the id"},
		{[]string{"token", "revoke", "x", "--user", "y"}, "give the id"},
		{[]string{"serve", "--jwt-issuer", "https://id.example.com"}, "there is no audience"},
		{[]string{"serve", "--jwt-audience", "x"}, "--jwt-issuer must name"},
		{[]string{"serve", "--jwt-issuer", "http://id.example.com", "--jwt-audience", "x"}, "only by https"},
		{[]string{"serve", "--jwt-issuer", "https://id.example.com", "--jwt-audience", "x", "--jwt-keys", "missing"}, "no such file"},
		{[]string{"serve", "--jwt-issuers", "missing"}, "no such file"},
	} {
		out, said, code := run(t, dir, c.args...)
		if code != 64 || out != "" || !strings.Contains(said, c.want) || strings.Count(said, "\n") != 1 {
			t.Errorf("%v: exit code %d, want 64 and %q\n%s%s", c.args, code, c.want, out, said)
		}
	}
	server := serve(t, dir)
	if got := status(t, server, ""); got != 200 {
		t.Errorf("a token that was not made has closed the server: %d", got)
	}

	// Something is in the way of the socket, which is nothing of the server's.
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "tidemark.db.sock"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	server = serve(t, other)
	waitFor(t, "the warning", func() bool { return strings.Contains(server.stderr.String(), "no control socket") })
	server.stop(t)
	if text, err := os.ReadFile(filepath.Join(other, "tidemark.db.sock")); string(text) != "precious" {
		t.Errorf("what was in the way is now %q, %v", text, err)
	}
}

// A store that something else than a server has open is in use, and one with a long name, or behind a symbolic link,
// is the same store.
func TestTokenOfOddStores(t *testing.T) {
	dir := t.TempDir()
	s, err := store.OpenBolt(filepath.Join(dir, "tidemark.db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, said, code := run(t, dir, "token", "list"); code != 75 || !strings.Contains(said, "in use by another process, which does not answer") {
		t.Errorf("a store in use: exit code %d\n%s%s", code, out, said)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	long := filepath.Join(dir, strings.Repeat("d", 120), strings.Repeat("e", 120))
	if err := os.MkdirAll(long, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(long, strings.Repeat("s", 150)+".db")
	server := serve(t, dir, "--store", name)
	token, _ := newToken(t, dir, "--store", name, "--user", "alice")
	if got := status(t, server, token); got != 200 {
		t.Errorf("a token of a store with a long name: %d", got)
	}
	link := filepath.Join(dir, "link.db")
	if err := os.Symlink(name, link); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	linked, _ := newToken(t, dir, "--store", link, "--user", "alice")
	if got := status(t, server, linked); got != 200 || time.Since(begun) > patience {
		t.Errorf("a token made through a link: %d, after %v", got, time.Since(begun))
	}

	// A server that is stopped and goes on later has done what it was asked.
	if err := server.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, dir, "token", "create", "--store", name, "--user", "late")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if err := server.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}
