// Command backup measures what a backup does to pushes: how long they take while
// a large store is backed up, against how long they take when it is not, in
// turns. It makes the store, and starts a server on it, itself.
//
//	go run ./bench/backup [-dir DIR] [-gib 2] [-pushes 500] [-rounds 3]
//
// DIR must be on the disk that is to be measured, and have room for three times
// the store. Pushes come at a fixed rate, as from devices that know nothing of
// each other, and the time of each counts from when it was due: what waits behind
// a push that is stalled is as late as that. A backup is read and written
// at the rate of `tidemark backup` unless -bytes says otherwise.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"tidemark/mutlog"
	"tidemark/store"
)

var (
	dir     = flag.String("dir", ".", "where the store and its backups are made, in a directory that is removed")
	gib     = flag.Float64("gib", 2, "size of the store in GiB")
	rate    = flag.Int("pushes", 500, "pushes in a second, of 10 mutations each")
	devices = flag.Int("devices", 64, "devices that push; a stalled one is late with its next push, too")
	rounds  = flag.Int("rounds", 3, "how often pushes are measured without a backup and with one")
	length  = flag.Duration("length", time.Minute, "how long pushes are measured without a backup")
	paced   = flag.Int64("bytes", -1, "most bytes that a backup may read and write in a second, 0 for no bound; -1 is what tidemark has")
)

// users is how many have a log.
const users = 10_000

func main() {
	log.SetFlags(0)
	flag.Parse()
	work, err := os.MkdirTemp(*dir, "backup-")
	must(err)
	defer os.RemoveAll(work)
	b := &bench{dir: work, program: filepath.Join(work, "tidemark"), heads: slices.Repeat([]mutlog.Timestamp{mutlog.Beginning}, users)}
	if out, err := exec.Command("go", "build", "-o", b.program, "./cmd/tidemark").CombinedOutput(); err != nil {
		log.Fatalf("go build: %v\n%s", err, out)
	}
	fmt.Fprintf(os.Stderr, "making a store of %.1f GiB\n", *gib)
	b.fill()
	b.serve()
	defer b.end()

	var without, with, ratios []float64
	for round := range *rounds {
		quiet := b.measure(b.wait)
		busy := b.measure(func() { b.backup(round) })
		fmt.Printf("without a backup: %s\nduring a backup:  %s\n", quiet, busy)
		without, with = append(without, quiet.at(0.99)), append(with, busy.at(0.99))
		ratios = append(ratios, busy.at(0.99)/quiet.at(0.99))
	}
	fmt.Printf("p99 without %s ms, during %s ms: %s times that\n", spread(without), spread(with), spread(ratios))
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// spread is the median of figures, and the least and the most.
func spread(figures []float64) string {
	slices.Sort(figures)
	return fmt.Sprintf("%.2f (%.2f to %.2f)", figures[len(figures)/2], figures[0], figures[len(figures)-1])
}

type bench struct {
	dir, program, addr string
	server             *exec.Cmd
	heads              []mutlog.Timestamp // of the logs; each is one device's to know
}

func (b *bench) path() string { return filepath.Join(b.dir, "tidemark.db") }

func user(n int) string { return fmt.Sprint("user-", n) }

// notes are the mutations of a push, about 250 bytes of JSON each.
func notes(n int) []mutlog.Mutation {
	all := make([]mutlog.Mutation, n)
	for i := range all {
		all[i] = mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", ResourceID: fmt.Sprintf("%032x", rand.Uint64()),
			Data: fmt.Appendf(nil, `{"title":"a note %d","text":"%0120d"}`, i, rand.Int())}
	}
	return all
}

// fill makes the store. It need not be durable before it is closed.
func (b *bench) fill() {
	s, err := store.OpenBolt(b.path(), store.BoltOptions{NoSync: true})
	must(err)
	logs := mutlog.New(s, mutlog.DefaultLimits)
	var wg sync.WaitGroup
	for w := range *devices {
		wg.Go(func() {
			for full := false; !full; {
				for u := w; u < users && !full; u += *devices {
					pushed, err := logs.Push(context.Background(), mutlog.User(user(u)), mutlog.Push{Base: b.heads[u], Mutations: notes(50)})
					must(err)
					size, err := s.Size()
					must(err)
					b.heads[u], full = pushed.Head, float64(size) >= *gib*(1<<30)
				}
			}
		})
	}
	wg.Wait()
	must(s.Close())
}

// serve starts a server on the store.
func (b *bench) serve() {
	b.server = exec.Command(b.program, "serve", "--addr", "127.0.0.1:0", "--store", b.path(), "--log-level", "error")
	b.server.Stderr = os.Stderr
	b.server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := b.server.StdoutPipe()
	must(err)
	must(b.server.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	must(err)
	b.addr = regexp.MustCompile(`http://(\S+)`).FindStringSubmatch(line)[1]
}

func (b *bench) end() {
	b.server.Process.Signal(syscall.SIGTERM)
	b.server.Wait()
}

// backup makes a backup beside the server, and removes it, which is a stall of its own.
func (b *bench) backup(round int) {
	file := filepath.Join(b.dir, fmt.Sprint(round, ".backup"))
	cmd := exec.Command(b.program, "backup", file, "--store", b.path())
	if *paced >= 0 {
		cmd.Args = append(cmd.Args, fmt.Sprint("--rate=", *paced))
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	must(err)
	fmt.Fprintf(os.Stderr, "%s", out)
	must(os.Remove(file))
}

// wait is as long as pushes are measured without a backup.
func (b *bench) wait() { time.Sleep(*length) }

// times are how long pushes took, in order.
type times []time.Duration

// at returns the time within which so many of the pushes were answered, in
// milliseconds.
func (t times) at(share float64) float64 {
	return float64(t[min(int(share*float64(len(t))), len(t)-1)].Microseconds()) / 1000
}

func (t times) String() string {
	return fmt.Sprintf("%d pushes, p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, longest %.0f ms", len(t), t.at(0.5), t.at(0.99), t.at(0.999), t.at(1))
}

// measure pushes until work has ended.
func (b *bench) measure(work func()) (all times) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	over := make(chan struct{})
	period := time.Second * time.Duration(*devices) / time.Duration(*rate)
	begun := time.Now()
	for d := range *devices {
		wg.Go(func() {
			due := begun.Add(period * time.Duration(d) / time.Duration(*devices))
			for ; ; due = due.Add(period) {
				select {
				case <-over:
					return
				case <-time.After(time.Until(due)):
				}
				u := d + *devices*rand.IntN((users-d-1) / *devices + 1)
				b.heads[u] = b.push(u)
				took := time.Since(due)
				mu.Lock()
				all = append(all, took)
				mu.Unlock()
			}
		})
	}
	work()
	close(over)
	wg.Wait()
	slices.Sort(all)
	return all
}

// push pushes ten notes to the log of a user, and returns its new head.
func (b *bench) push(u int) mutlog.Timestamp {
	body, err := json.Marshal(map[string]any{"mutations": notes(10)})
	must(err)
	r, err := http.NewRequest("POST", fmt.Sprintf("http://%s/v1/sync?lastMutationAt=%d", b.addr, b.heads[u]), bytes.NewReader(body))
	must(err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-User-Id", user(u))
	r.Header.Set("Prefer", "return=minimal")
	answer, err := client.Do(r)
	must(err)
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.StatusCode != http.StatusOK {
		log.Fatalf("a push is answered %s, %v", answer.Status, err)
	}
	head, err := strconv.ParseInt(answer.Header.Get("X-Mutation-At"), 10, 64)
	must(err)
	return mutlog.Timestamp(head)
}

// client keeps a connection for each device.
var client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
