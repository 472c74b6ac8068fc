// Package network_test gives the real binary what networks and clients do to servers: too many connections, too much at
// once, senders that dawdle, readers that stall, devices that vanish. Each test is named by its row of the fault matrix,
// prints its counts in one line, and fails if the server did too little work around the fault to have met it.
package network_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var long = flag.Bool("long", false, "run the large sizes")

// dir holds the binary, and the stores: in memory if that is possible, since disks are no matter here.
var dir string

func TestMain(m *testing.M) {
	flag.Parse()
	parent := "/dev/shm"
	if info, err := os.Stat(parent); err != nil || !info.IsDir() {
		parent = ""
	}
	var err error
	if dir, err = os.MkdirTemp(parent, "tidemark-network-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// size is the size of a test: of each change, or with -long.
func size(each, withLong int) int {
	if *long {
		return withLong
	}
	return each
}

// allowed is how long what must be done within limit may take here: machines that run other things beside the tests have
// less time for each. What was measured is printed as it is.
func allowed(limit time.Duration) time.Duration {
	var load float64
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Sscan(string(b), &load)
	}
	return time.Duration(float64(limit) * max(1, load/float64(runtime.NumCPU())))
}

// counts prints the line of a row.
func counts(t testing.TB, format string, args ...any) {
	t.Helper()
	row := regexp.MustCompile(`^TestF[0-9]+`).FindString(t.Name())
	fmt.Printf("%s: %s\n", strings.TrimPrefix(row, "Test"), fmt.Sprintf(format, args...))
}

// underRace tells whether the tests were built with -race; then the server is, too, and its memory says nothing.
var underRace = func() bool {
	info, _ := debug.ReadBuildInfo()
	return slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}()

var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(dir, "tidemark")
	args := []string{"build", "-o", path}
	if underRace {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Dir = "../../cmd/tidemark"
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

// server is a running `tidemark serve`.
type server struct {
	t      testing.TB
	addr   string
	store  string
	cmd    *exec.Cmd
	log    *os.File
	exited chan struct{}
	http   *http.Client
}

// start serves a store, a new one if that is "". Of under, each is "NAME=value" for the environment or a number of open
// files to allow.
func start(t testing.TB, store string, files int, env []string, args ...string) *server {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	scratch, err := os.MkdirTemp(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if store == "" {
		store = filepath.Join(scratch, "tidemark.db")
	}
	s := &server{t: t, store: store, exited: make(chan struct{}), http: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 500}}}
	if s.log, err = os.Create(filepath.Join(scratch, "log")); err != nil {
		t.Fatal(err)
	}
	args = append([]string{program, "serve", "--addr", "127.0.0.1:0", "--log-level", "warn", "--store", store}, args...)
	if files > 0 {
		args = append([]string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$0" "$@"`, files)}, args...)
	}
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = append(os.Environ(), env...)
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // what a test starts ends with it
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	for s.addr == "" {
		line, err := lines.ReadString('\n')
		if err != nil {
			s.cmd.Wait()
			t.Fatalf("the server does not start: %s", s.tail())
		}
		if m := regexp.MustCompile(`http://(\S+?:\d+)`).FindStringSubmatch(line); m != nil {
			s.addr = m[1]
		}
	}
	go func() {
		io.Copy(io.Discard, lines)
		s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.exited
		s.http.CloseIdleConnections()
		if t.Failed() {
			t.Logf("log of the server: %s", s.tail())
		}
		if strings.Contains(s.tail(), "DATA RACE") {
			t.Error("the race detector found something in the server")
		}
	})
	return s
}

// tail returns the end of the log.
func (s *server) tail() string {
	b, _ := os.ReadFile(s.log.Name())
	return string(b[max(0, len(b)-3000):])
}

// stop ends the server as operators do, and returns how long that took.
func (s *server) stop() time.Duration {
	s.t.Helper()
	begun := time.Now()
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		s.t.Fatal("the server has not ended 20 s after SIGTERM")
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		s.t.Errorf("the server exits with %d after SIGTERM: %s", code, s.tail())
	}
	return time.Since(begun)
}

// check stops the server and verifies its store.
func (s *server) check() {
	s.t.Helper()
	select {
	case <-s.exited:
	default:
		s.stop()
	}
	program, _ := build()
	if out, err := exec.Command(program, "check", "--store", s.store).CombinedOutput(); err != nil {
		s.t.Errorf("tidemark check: %v\n%s", err, out)
	}
}

// alive tells whether the process runs.
func (s *server) alive() bool {
	select {
	case <-s.exited:
		return false
	default:
		return true
	}
}

// dial opens a connection that buffers little, so that the server feels what its client does.
func (s *server) dial() (*net.TCPConn, error) {
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10) })
	}}
	c, err := d.Dial("tcp", s.addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func (s *server) mustDial() *net.TCPConn {
	s.t.Helper()
	c, err := s.dial()
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// reply is an answer; its status is 0 if none came.
type reply struct {
	status int
	body   []byte
	header http.Header
}

func (r reply) replayed() bool { return r.header.Get("Idempotency-Replayed") == "true" }

// head is the head that an answer tells, or -2.
func (r reply) head() int64 {
	var a struct {
		Data struct{ LastMutationAt *int64 }
	}
	if json.Unmarshal(r.body, &a) != nil || a.Data.LastMutationAt == nil {
		return -2
	}
	return *a.Data.LastMutationAt
}

func (s *server) do(method, query, user, body string, headers ...string) reply {
	req, err := http.NewRequest(method, "http://"+s.addr+"/v1/sync?"+query, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("X-User-Id", user)
	req.Header.Set("Content-Type", "application/json")
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := s.http.Do(req)
	if err != nil {
		return reply{header: http.Header{}}
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		return reply{header: http.Header{}}
	}
	return reply{res.StatusCode, got, res.Header}
}

func (s *server) push(user string, base int64, body string, headers ...string) reply {
	return s.do("POST", fmt.Sprint("lastMutationAt=", base), user, body, headers...)
}

func (s *server) mustPush(user string, base int64, body string) int64 {
	s.t.Helper()
	r := s.push(user, base, body)
	if r.status != 200 {
		s.t.Fatalf("a good push is answered %d %.300s", r.status, r.body)
	}
	return r.head()
}

// history is the whole log of a user.
func (s *server) history(user string) (ids []string, timestamps []int64) {
	s.t.Helper()
	r := s.do("GET", "mutationsSince=0&history=true", user, "")
	var a struct {
		Data struct {
			Mutations []struct {
				ResourceID string
				Timestamp  int64
			}
		}
	}
	if err := json.Unmarshal(r.body, &a); err != nil || r.status != 200 {
		s.t.Fatalf("the history of %s: %d %v", user, r.status, err)
	}
	for _, m := range a.Data.Mutations {
		ids, timestamps = append(ids, m.ResourceID), append(timestamps, m.Timestamp)
	}
	return ids, timestamps
}

// notes is a push of n notes with text of so many bytes each, whose ids begin with prefix.
func notes(prefix string, n, bytesEach int) string {
	var b strings.Builder
	text := strings.Repeat("x", bytesEach)
	for i := range n {
		fmt.Fprintf(&b, `,{"type":"CREATE","resource":"NOTE","resourceId":"%s%d","data":{"text":"%s"}}`, prefix, i, text)
	}
	return `{"mutations":[` + b.String()[1:] + `]}`
}

// wire is a push as it goes over the wire.
func wire(user string, base int64, body string, headers ...string) string {
	return fmt.Sprintf("POST /v1/sync?lastMutationAt=%d HTTP/1.1\r\nHost: localhost\r\nX-User-Id: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n%s",
		base, user, len(body), strings.Join(append(headers, ""), "\r\n"), body)
}

// anonymous returns the memory of the process that is no file's, in MiB: now, or at its peak.
func (s *server) anonymous() (mib int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	for line := range bytes.Lines(b) {
		var kib int
		if n, _ := fmt.Sscanf(string(line), "RssAnon: %d kB", &kib); n == 1 {
			return kib >> 10
		}
	}
	return 0
}

// watchMemory samples the memory until it is stopped, and returns the peak then.
func (s *server) watchMemory() (stop func() int) {
	done, peak := make(chan bool), make(chan int)
	go func() {
		highest := 0
		for {
			highest = max(highest, s.anonymous())
			select {
			case <-done:
				peak <- highest
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() int { close(done); return <-peak }
}

// tally counts the statuses of answers.
type tally struct {
	mu sync.Mutex
	n  map[int]int
}

func (c *tally) add(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[int]int{}
	}
	c.n[status]++
}

// only fails the test if there is any other status.
func (c *tally) only(t testing.TB, allowed ...int) {
	t.Helper()
	for status, n := range c.n {
		if !slices.Contains(allowed, status) {
			t.Errorf("%d answers of status %d", n, status)
		}
	}
}

// steady pushes and pulls from some devices until it is stopped, and returns how long each request took.
func (s *server) steady(name string, devices int) (stop func() []time.Duration) {
	done := make(chan struct{})
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	for i := range devices {
		wg.Go(func() {
			user, head := fmt.Sprintf("%s-%d", name, i), int64(-1)
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				begun := time.Now()
				var r reply
				if n%2 == 0 {
					if r = s.push(user, head, notes(fmt.Sprint(n, "."), 2, 100)); r.status == 200 {
						head = r.head()
					}
				} else {
					r = s.do("GET", fmt.Sprint("mutationsSince=", max(0, head-1)), user, "")
				}
				if r.status != 200 {
					s.t.Errorf("a good request of %s is answered %d %.200s", user, r.status, r.body)
					return
				}
				mu.Lock()
				took = append(took, time.Since(begun))
				mu.Unlock()
			}
		})
	}
	return func() []time.Duration {
		close(done)
		wg.Wait()
		return took
	}
}

// quantile returns the q-quantile.
func quantile(took []time.Duration, q float64) time.Duration {
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[min(len(took)-1, int(q*float64(len(took))))]
}
