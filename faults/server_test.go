package faults_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// server is a running `tidemark serve`.
type server struct {
	t     testing.TB
	store string
	options
	addr   string
	client *http.Client
	cmd    *exec.Cmd
	stdout buffer
	stderr buffer
	exited chan struct{} // closed once the process is gone
	began  time.Time
	ready  time.Duration // from the start of the process to its first answer
}

// options say how a server is started.
type options struct {
	program string // in place of tidemark
	under   []string
	args    []string
	stderr  io.Writer
	fold    int // --fold-batches: how many batches gather before they are folded
}

var listening = regexp.MustCompile(`http://(\S+?:\d+)`)

// start serves store on a free port, and returns once it answers.
func start(t testing.TB, store string, o options) *server {
	t.Helper()
	s := launch(t, store, o)
	if !s.await() {
		t.Fatalf("the server did not start: %v\n%s", s.cmd.ProcessState, s.stderr.tail())
	}
	return s
}

// launch starts the process.
func launch(t testing.TB, store string, o options) *server {
	t.Helper()
	if o.program == "" {
		o.program = tidemark(t)
	}
	args := append(append(o.under, o.program, "serve", "--addr", "127.0.0.1:0", "--log-level", "warn", "--store", store), o.args...)
	if o.fold > 0 {
		args = append(args, "--fold-batches", fmt.Sprint(o.fold))
	}
	s := &server{t: t, store: store, options: o, cmd: exec.Command(args[0], args[1:]...), exited: make(chan struct{})}
	s.client = &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 2000,
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
		},
	}
	s.cmd.Stdout, s.cmd.Stderr = &s.stdout, &s.stderr
	if o.stderr != nil {
		s.cmd.Stderr = o.stderr
	}
	// What a test starts ends with it, even if the test is killed.
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	s.began = time.Now()
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		s.cmd.Wait() // how it ended is in ProcessState
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("log of the server:\n%s", s.stderr.tail())
		}
	})
	return s
}

// await waits until the server answers; false if it ended before.
func (s *server) await() bool {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); s.addr == ""; time.Sleep(time.Millisecond) {
		if m := listening.FindStringSubmatch(s.stdout.String()); m != nil {
			s.addr = m[1]
		}
		if s.gone() {
			return false
		}
		if time.Now().After(deadline) {
			s.t.Fatal("the server does not start")
		}
	}
	status, _ := s.get("/livez", "")
	s.ready = time.Since(s.began)
	return status == http.StatusOK
}

func (s *server) gone() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// kill ends the server at once.
func (s *server) kill() {
	s.cmd.Process.Kill()
	<-s.exited
	s.client.CloseIdleConnections()
}

// stop ends the server as operators do.
func (s *server) stop() {
	s.t.Helper()
	s.client.CloseIdleConnections() // the server waits for those that it has not heard from
	s.cmd.Process.Signal(syscall.SIGTERM)
	if code := s.exit(20 * time.Second); code != 0 {
		s.t.Fatalf("the server exits with %d after SIGTERM: %s", code, s.stderr.tail())
	}
}

// exit waits until the server has ended by itself and returns its exit code.
func (s *server) exit(within time.Duration) int {
	s.t.Helper()
	select {
	case <-s.exited:
	case <-time.After(within):
		s.t.Fatalf("the server has not ended within %v", within)
	}
	s.client.CloseIdleConnections()
	return s.cmd.ProcessState.ExitCode()
}

// get asks for a path as a user; status is 0 if there was no whole answer.
func (s *server) get(path, user string) (status int, body []byte) {
	req, err := http.NewRequest("GET", "http://"+s.addr+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if user != "" {
		req.Header.Set("X-User-Id", user)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer res.Body.Close()
	if body, err = io.ReadAll(res.Body); err != nil {
		return 0, nil
	}
	return res.StatusCode, body
}

// freePort returns a port that nobody listens on.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// buffer is a bytes.Buffer for a process and a test.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// tail returns the last lines.
func (b *buffer) tail() string {
	s := b.String()
	if len(s) > 4000 {
		s = fmt.Sprintf("(%d bytes left out)", len(s)-4000) + s[len(s)-4000:]
	}
	return strings.TrimSpace(s)
}
