package main_test

// What the tests of this package share: they build the real binary once, start it, read where it listens, and
// stop it gently or hard. They know the program only from outside, as its users do.

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tidemark/mutlog/mutlogtest"
)

// patience is how long a test waits for the server to start, to stop or to apply a push, before it calls it stuck.
const patience = 20 * time.Second

// buildDir holds the binary for as long as the tests run.
var buildDir string

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	if buildDir, err = os.MkdirTemp("", "tidemark-test-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(buildDir)
	os.Exit(code)
}

// binary returns the path of the tidemark binary, built when the first test asks for it.
func binary(t testing.TB) string {
	t.Helper()
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var buildOnce = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "tidemark")
	args := []string{"build", "-o", path}
	if mutlogtest.UnderRaceDetector() {
		args = append(args, "-race")
	}
	if out, err := exec.Command("go", append(args, ".")...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// command prepares the binary to run in dir, free of any TIDEMARK_ variable of the caller's environment.
func command(t testing.TB, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(binary(t), args...)
	cmd.Dir = dir
	cmd.Env = []string{"GORACE=atexit_sleep_ms=0"} // under the race detector each end would take a second
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "TIDEMARK_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	return cmd
}

// process is a running `tidemark serve`.
type process struct {
	addr           string // host:port, as its start line names it
	stdout, stderr syncBuffer
	cmd            *exec.Cmd
	exited         chan struct{} // closed once the process is gone; its state is in cmd.ProcessState then
}

var listening = regexp.MustCompile(`https?://(\S+?:\d+)`)

// serve starts the server in dir on a free port of the loopback interface and returns once it has said where it
// listens. The end of the test kills it, if the test did not stop it.
func serve(t testing.TB, dir string, args ...string) *process {
	t.Helper()
	p := &process{exited: make(chan struct{})}
	p.cmd = command(t, dir, append([]string{"serve", "--addr", "127.0.0.1:0"}, args...)...)
	p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is for stop to judge
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.kill(t)
		if strings.Contains(p.stderr.String(), "WARNING: DATA RACE") {
			t.Error("the race detector found something in the server")
		}
		if t.Failed() {
			t.Logf("the server's log:\n%s", p.stderr.String())
		}
	})
	waitFor(t, "the start line", func() bool {
		select {
		case <-p.exited:
			t.Fatalf("the server did not start: %v\n%s%s", p.cmd.ProcessState, p.stdout.String(), p.stderr.String())
		default:
		}
		if m := listening.FindStringSubmatch(p.stdout.String()); m != nil {
			p.addr = m[1]
		}
		return p.addr != ""
	})
	return p
}

// stop asks the server to end, as an operator does, and expects it to end well.
func (p *process) stop(t testing.TB) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatal("the server did not stop on SIGTERM")
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the server ended with %d after SIGTERM, want 0", code)
	}
}

// kill ends the server at once, wherever it is. It does nothing to one that has ended.
func (p *process) kill(t testing.TB) {
	t.Helper()
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// check runs `tidemark check` on a store that no server holds and fails the test unless it is sound.
func check(t testing.TB, dir, store string) {
	t.Helper()
	if out, err := command(t, dir, "check", "--store", store).CombinedOutput(); err != nil {
		t.Errorf("tidemark check: %v\n%s", err, out)
	}
}

// waitFor returns when done does, and fails the test when that takes longer than patience.
func waitFor(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v in vain for %s", patience, what)
		}
	}
}

// syncBuffer is a bytes.Buffer that a process may write while a test reads.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
