// Command streams measures what streams of events cost a server, and how fast
// they tell: the memory and the processor time of idle streams, how long after a
// push a device hears of it while others push, and how many pushes a server
// takes with and without idle streams, in turns. It starts the servers itself.
//
//	go run ./bench/streams
//
// It needs Linux, and twice as many open files as there are streams.
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"tidemark/events"
)

var (
	streams = flag.Int("streams", 10_000, "idle streams, each of a user of its own")
	idle    = flag.Duration("idle", 30*time.Second, "how long to watch them being idle")
	load    = flag.Duration("load", 10*time.Second, "how long each load lasts")
	rate    = flag.Int("rate", 500, "pushes of others in a second, while the latency is measured")
	rounds  = flag.Int("rounds", 3, "rounds of pushes with and without streams")
)

func main() {
	log.SetFlags(0)
	flag.Parse()
	dir, err := os.MkdirTemp(".", "streams-") // on a disk, not in memory
	must(err)
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "tidemark")
	out, err := exec.Command("go", "build", "-o", program, "./cmd/tidemark").CombinedOutput()
	if err != nil {
		log.Fatalf("go build: %v\n%s", err, out)
	}
	with, without := start(program, dir, "with"), start(program, dir, "without")
	defer with.stop()
	defer without.stop()

	before := with.memory()
	with.open(*streams)
	begun, used := time.Now(), with.processor()
	time.Sleep(*idle)
	took := time.Since(begun)
	fmt.Printf("%d idle streams: %.1f KiB of memory each, %.2f %% of a core\n", *streams,
		float64(with.memory()-before)/1024/float64(*streams), 100*(with.processor()-used).Seconds()/took.Seconds())

	heard, answered, others := with.latency()
	fmt.Printf("a push is heard after %s, and answered after %s (%d of them, beside %.0f pushes/s of others)\n",
		spread(heard), spread(answered), len(heard), others)

	ratios := make([]float64, 0, *rounds)
	for round := range *rounds {
		var a, b float64
		for turn := range 2 { // who is first changes from round to round
			if (round+turn)%2 == 0 {
				a = with.pushes()
			} else {
				b = without.pushes()
			}
		}
		fmt.Printf("%.0f pushes/s with the streams, %.0f without\n", a, b)
		ratios = append(ratios, a/b)
	}
	slices.Sort(ratios)
	fmt.Printf("with the streams there are %.2f times as many pushes (median of %d rounds)\n", ratios[len(ratios)/2], len(ratios))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// spread sorts durations and tells of their median and p99.
func spread(all []time.Duration) string {
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return fmt.Sprintf("a median of %.1f ms, a p99 of %.1f ms", ms(all[len(all)/2]), ms(all[len(all)*99/100]))
}

// server is a running `tidemark serve`.
type server struct {
	addr string
	cmd  *exec.Cmd
	http *http.Client
}

func start(program, dir, name string) *server {
	s := &server{cmd: exec.Command(program, "serve", "--addr", "127.0.0.1:0", "--store", filepath.Join(dir, name+".db"), "--log-level", "error", "--check", "off")}
	s.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := s.cmd.StdoutPipe()
	must(err)
	must(s.cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	must(err)
	s.addr = regexp.MustCompile(`http://(\S+)`).FindStringSubmatch(line)[1]
	return s
}

func (s *server) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.cmd.Wait()
}

// memory returns the bytes in memory that are no file's.
func (s *server) memory() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	must(err)
	kib, err := strconv.ParseInt(regexp.MustCompile(`RssAnon:\s+([0-9]+)`).FindStringSubmatch(string(text))[1], 10, 64)
	must(err)
	return kib << 10
}

// processor returns the processor time that the server has used.
func (s *server) processor() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	must(err)
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+2:]))
	var ticks int64
	for _, f := range fields[11:13] { // of users and of the system, in 1/100 s
		n, err := strconv.ParseInt(f, 10, 64)
		must(err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// stream opens a stream of user and reads it up to the first event.
func (s *server) stream(user string) (net.Conn, *bufio.Reader) {
	c, err := net.Dial("tcp", s.addr)
	must(err)
	fmt.Fprintf(c, "GET /v1/sync/events HTTP/1.1\r\nHost: %s\r\nX-User-Id: %s\r\n\r\n", s.addr, user)
	lines := bufio.NewReaderSize(c, 512)
	for {
		line, err := lines.ReadString('\n')
		must(err)
		if strings.HasPrefix(line, "data:") {
			return c, lines
		}
		if strings.HasPrefix(line, "HTTP/1.1 ") && !strings.Contains(line, " 200 ") {
			log.Fatalf("a stream is answered %s", line)
		}
	}
}

// open opens n streams and leaves them to the kernel to read.
func (s *server) open(n int) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				c, _ := s.stream(fmt.Sprint("idle-", i))
				raw, _ := c.(*net.TCPConn).File() // so that nothing closes it
				c.Close()
				kept.Store(i, raw)
			}
		})
	}
	wg.Wait()
}

// kept are the idle streams.
var kept sync.Map

// push pushes a note of user on head, and returns the new one.
func (s *server) push(user string, head int64) int64 {
	r, err := http.NewRequest("POST", fmt.Sprintf("http://%s/v1/sync?lastMutationAt=%d", s.addr, head),
		strings.NewReader(`{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"text":"`+strings.Repeat("x", 200)+`"}}]}`))
	must(err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-User-Id", user)
	r.Header.Set("Prefer", "return=minimal")
	answer, err := s.http.Do(r)
	must(err)
	defer answer.Body.Close()
	io.Copy(io.Discard, answer.Body)
	head, err = strconv.ParseInt(answer.Header.Get("X-Mutation-At"), 10, 64)
	if err != nil {
		log.Fatalf("a push is answered %s", answer.Status)
	}
	return head
}

// latency measures how long after a push was sent a device hears of it, and how
// long after it was sent its answer comes. Both wait for the disk.
func (s *server) latency() (heard, answered []time.Duration, others float64) {
	over := make(chan struct{})
	var pushed atomic.Int64
	var wg sync.WaitGroup
	const writers = 20
	for w := range writers {
		wg.Go(func() {
			tick := time.NewTicker(time.Second * writers / time.Duration(*rate))
			defer tick.Stop()
			for user, head := fmt.Sprint("other-", w), int64(-1); ; {
				select {
				case <-over:
					return
				case <-tick.C:
					head = s.push(user, head)
					pushed.Add(1)
				}
			}
		})
	}
	var mu sync.Mutex
	var listeners sync.WaitGroup
	begun := time.Now()
	for l := range 50 {
		listeners.Go(func() {
			user := fmt.Sprint("heard-", l)
			c, lines := s.stream(user)
			defer c.Close()
			time.Sleep(events.Interval + time.Duration(l)*10*time.Millisecond) // the head that comes at once is an event, too
			for head := int64(-1); time.Since(begun) < *load; time.Sleep(500 * time.Millisecond) {
				sent := time.Now()
				told := make(chan time.Time)
				go func() {
					for {
						line, err := lines.ReadString('\n')
						must(err)
						if strings.HasPrefix(line, "data:") {
							told <- time.Now()
							return
						}
					}
				}()
				head = s.push(user, head)
				done := time.Since(sent)
				d := (<-told).Sub(sent)
				mu.Lock()
				heard, answered = append(heard, d), append(answered, done)
				mu.Unlock()
			}
		})
	}
	listeners.Wait()
	all := time.Since(begun)
	close(over)
	wg.Wait()
	return heard, answered, float64(pushed.Load()) / all.Seconds()
}

// users numbers those who push, so that each log is new.
var users atomic.Int64

// pushes measures how many pushes a second are made durable for 64 devices.
func (s *server) pushes() float64 {
	var n atomic.Int64
	var wg sync.WaitGroup
	begun := time.Now()
	for range 64 {
		wg.Go(func() {
			user, head := fmt.Sprint("pusher-", users.Add(1)), int64(-1)
			for time.Since(begun) < *load {
				head = s.push(user, head)
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(begun).Seconds()
}
