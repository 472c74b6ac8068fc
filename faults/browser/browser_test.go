// Package browser_test lets headless Chromium follow a log with a plain EventSource and a ticket, while the server is
// stopped, killed and started again. It needs Chromium.
package browser_test

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var long = flag.Bool("long", false, "run the large sizes")

//go:embed page.html
var page []byte

// TestBrowserMissesNothing: every change reaches the page, in order and once, however often the server goes away.
func TestBrowserMissesNothing(t *testing.T) {
	changes, restarts := 100, 4
	if *long {
		changes, restarts = 1000, 20
	}
	chromium := findChromium(t)
	s := build(t)
	s.start()
	f := &front{server: s}
	target, _ := url.Parse("http://" + s.addr)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	f.proxy = proxy
	site := httptest.NewServer(f)
	defer site.Close()
	defer f.cut()
	run(t, chromium, site.URL)

	f.await(t, "the page follows", func() bool { return f.tickets > 0 && f.events > 0 })
	head, pushed := int64(-1), 0
	for restart := range restarts + 1 {
		if restart > 0 {
			s.restart(restart%2 == 1)
		}
		for pushed < changes*(restart+1)/(restarts+1) {
			head = s.push(head, fmt.Sprint("note-", pushed))
			pushed++
			if pushed%7 == 0 {
				time.Sleep(50 * time.Millisecond)
			}
		}
		if restart%3 == 0 { // else the next restart comes at once
			f.await(t, "the page is level", func() bool { return len(f.seen) >= pushed })
		}
	}
	f.await(t, "the page has every change", func() bool { return len(f.seen) >= changes })
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, id := range f.seen {
		if id != fmt.Sprint("note-", i) {
			t.Fatalf("change %d is %s", i, id)
		}
	}
	fmt.Printf("browser: %d changes seen, %d restarts, %d tickets, %d events\n", len(f.seen), restarts, f.tickets, f.events)
}

// findChromium returns the browser. Without one the test is skipped, or fails where all tests must run.
func findChromium(t *testing.T) string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs Chromium")
	}
	t.Skip("SKIP: needs Chromium; not run")
	return ""
}

// run opens the page in a browser of its own until the test ends.
func run(t *testing.T, chromium, site string) {
	profile := t.TempDir()
	cmd := exec.Command(chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--disable-background-networking", "--user-data-dir="+profile, "--remote-debugging-port=0", site+"/page")
	cmd.Env = append(os.Environ(), "HOME="+profile)
	log := &strings.Builder{}
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // with its helpers
		cmd.Wait()
		if t.Failed() {
			t.Logf("the browser: %.3000s", log.String())
		}
	})
}

// front serves the page, takes its reports and passes everything else on to the server.
type front struct {
	server *server
	proxy  http.Handler

	mu              sync.Mutex
	seen            []string
	tickets, events int
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/page":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	case "/report":
		var report struct {
			Seen            []string
			Tickets, Events int
		}
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		f.seen = append(f.seen, report.Seen...)
		f.tickets, f.events = report.Tickets, report.Events
	case "/favicon.ico":
		http.NotFound(w, r)
	default:
		f.proxy.ServeHTTP(w, r)
	}
}

// cut lets the site close although the page still follows.
func (f *front) cut() { f.server.kill() }

// await waits until that is true of what was reported.
func (f *front) await(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		f.mu.Lock()
		ok := is()
		n, tickets := len(f.seen), f.tickets
		f.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not in 90 s: %s; it has seen %d changes, with %d tickets", what, n, tickets)
		}
	}
}

// server is `tidemark serve`, always on the same port and store.
type server struct {
	t       *testing.T
	program string
	store   string
	addr    string
	cmd     *exec.Cmd
	ending  atomic.Bool
}

func build(t *testing.T) *server {
	dir := t.TempDir()
	s := &server{t: t, program: filepath.Join(dir, "tidemark"), store: filepath.Join(dir, "tidemark.db"), addr: "127.0.0.1:0"}
	cmd := exec.Command("go", "build", "-o", s.program, ".")
	cmd.Dir = "../../cmd/tidemark"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return s
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command(s.program, "serve", "--addr", s.addr, "--store", s.store, "--log-level", "error")
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	m := regexp.MustCompile(`http://(\S+)`).FindStringSubmatch(line)
	if err != nil || m == nil {
		s.t.Fatalf("the server does not start: %q, %v", line, err)
	}
	s.addr = m[1]
	go io.Copy(io.Discard, out)
}

// restart stops the server, or kills it, and starts it again.
func (s *server) restart(kill bool) {
	s.t.Helper()
	if kill {
		s.cmd.Process.Kill()
	} else {
		s.cmd.Process.Signal(syscall.SIGTERM)
	}
	if err := s.cmd.Wait(); err != nil && !kill {
		s.t.Errorf("after SIGTERM: %v", err)
	}
	s.start()
}

func (s *server) kill() {
	if !s.ending.Swap(true) {
		s.cmd.Process.Kill()
		s.cmd.Wait()
	}
}

// push pushes a note and returns the new head.
func (s *server) push(head int64, id string) int64 {
	s.t.Helper()
	body := fmt.Sprintf(`{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":%q,"data":{}}]}`, id)
	a, err := http.Post(fmt.Sprintf("http://%s/v1/sync?lastMutationAt=%d", s.addr, head), "application/json", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	defer a.Body.Close()
	var answer struct {
		Data struct{ LastMutationAt int64 }
	}
	if err := json.NewDecoder(a.Body).Decode(&answer); err != nil || a.StatusCode != http.StatusOK {
		s.t.Fatalf("a push is answered %d, %v", a.StatusCode, err)
	}
	return answer.Data.LastMutationAt
}
