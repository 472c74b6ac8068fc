package main_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
)

// writeFile puts text into a file at once, as an editor does that renames.
func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// TestResourcesCheck: the command says what is wrong where.
func TestResourcesCheck(t *testing.T) {
	dir := t.TempDir()
	for _, test := range []struct {
		text   string
		code   int
		prints string
	}{
		{"resources: {A: }\n", 0, "r.yaml is right: 1 resources\n"},
		{"resources:\n  A: {ky: 1}\n  a:\n", 1, `r.yaml:2:7: unknown member "ky"; there are: scope, key, maxDataBytes, maxResources, schema
r.yaml:3:3: "a" is no name of a resource: capital letters, digits and _, beginning with a letter, at most 64
tidemark: r.yaml is wrong: 2 problems
`},
	} {
		writeFile(t, filepath.Join(dir, "r.yaml"), test.text)
		cmd := command(t, dir, "resources", "check", "r.yaml")
		out, _ := cmd.CombinedOutput() // how it ended is looked at below
		if code := cmd.ProcessState.ExitCode(); code != test.code || string(out) != test.prints {
			t.Errorf("exit code %d, want %d, and\n%s\nwant\n%s", code, test.code, out, test.prints)
		}
	}
	for _, args := range [][]string{{"resources", "check", "none.yaml"}, {"resources"}, {"resources", "check"}} {
		if out, err := command(t, dir, args...).CombinedOutput(); err == nil || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%v: %v, %s", args, err, out)
		}
	}
}

// TestWrongResources: a server does not start with a wrong file, and says why in
// one line.
func TestWrongResources(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "r.yaml"), "resources:\n  a:\n  b:\n")
	for _, file := range []string{"r.yaml", "none.yaml"} {
		cmd := command(t, dir, "serve", "--addr", "127.0.0.1:0", "--resources", file)
		out, _ := cmd.CombinedOutput() // how it ended is looked at below
		if code := cmd.ProcessState.ExitCode(); code != 78 || strings.Count(string(out), "\n") != 1 || !strings.Contains(string(out), file) {
			t.Errorf("%s: exit code %d, %s", file, code, out)
		}
		if _, err := os.Stat(filepath.Join(dir, "tidemark.db")); err == nil {
			t.Error("it made a store")
		}
	}
}

// TestReload: SIGHUP makes the server read its resource file again, under load.
// Each request goes by one file or the other as a whole, a wrong file changes
// nothing, and no request fails (docs/resources.md, "Right and wrong files").
func TestReload(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "resources.yaml")
	file := func(allowed string) string {
		return fmt.Sprintf("resources:\n  BOTH:\n  %s: {schema: {properties: {of: {const: %s}}}}\n", allowed, allowed)
	}
	writeFile(t, path, file("OLD"))
	p := serve(t, dir, "--resources", "resources.yaml")
	push := func(user, resource string) (status int, answer string) {
		t.Helper()
		body := fmt.Sprintf(`{"mutations":[{"type":"CREATE","resource":"BOTH","data":{}},{"type":"CREATE","resource":%q,"data":{"of":%q}}]}`, resource, resource)
		request, err := http.NewRequest("POST", "http://"+p.addr+"/v1/sync?merge=true&lastMutationAt=-1", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("X-User-Id", user)
		res, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Error(err)
		}
		return res.StatusCode, string(text)
	}

	var stop atomic.Bool
	var asked atomic.Int64
	var devices sync.WaitGroup
	for n := range 4 {
		devices.Go(func() {
			for i := 0; !stop.Load() && !t.Failed(); i++ {
				for _, resource := range []string{"OLD", "NEW"} {
					status, answer := push(fmt.Sprintf("%d-%d-%s", n, i, resource), resource)
					if status != 200 && !(status == 422 && strings.Contains(answer, `Invalid resource: \"`+resource+`\" at mutation[1]`)) {
						t.Errorf("%s: %d %s", resource, status, answer)
					}
					asked.Add(1)
				}
			}
		})
	}
	hangUp := func(text, said string) {
		t.Helper()
		writeFile(t, path, text)
		before := strings.Count(p.stderr.String(), said)
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the log to say: "+said, func() bool { return strings.Count(p.stderr.String(), said) > before })
	}
	accepts := func(resource string, want int) {
		t.Helper()
		if status, answer := push(fmt.Sprint("probe-", asked.Load(), resource), resource); status != want {
			t.Errorf("%s: %d %s, want %d", resource, status, answer, want)
		}
	}
	const again, wrong = "the resource file was read again", "the resource file is wrong"
	accepts("OLD", 200)
	accepts("NEW", 422)
	for range 5 {
		hangUp(file("NEW"), again)
		accepts("NEW", 200)
		accepts("OLD", 422)
		hangUp("resources:\n  OLD: {schema: {type: 7}}\n", wrong)
		accepts("NEW", 200)
		accepts("OLD", 422)
		hangUp(file("OLD"), again)
		accepts("OLD", 200)
		accepts("NEW", 422)
	}
	waitFor(t, "some requests", func() bool { return asked.Load() > 100 })
	stop.Store(true)
	devices.Wait()
	if !strings.Contains(p.stderr.String(), "resources.yaml:2:18: the schema is wrong here") {
		t.Error("the log does not say what is wrong")
	}
	p.stop(t)
	check(t, dir, "tidemark.db")
}
