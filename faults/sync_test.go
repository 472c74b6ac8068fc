package faults_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tidemark/faults/disk"
)

// TestF6LyingDisk lets the disk report a write as done that it has lost, at each
// write of a commit. Later commits may replace the page; else the next start
// must refuse to serve: what was acknowledged is not all there.
func TestF6LyingDisk(t *testing.T) {
	rnd := newRandom(t)
	d := newDisk(t)
	path := filepath.Join(d.Dir, "tidemark.db")
	lies, refused, repaired, older := 0, 0, 0, 0
	times := size(3, 30)
	for _, further := range []int{0, 1, 3} { // commits behind the lie
		for _, before := range []int{2, 30, 31} {
			for lie := 0; ; lie++ {
				told, meta := false, false
				for range times {
					d.Reset(nil)
					f := newFleet(t, 2, 2)
					f.large = rnd.IntN(2000)
					s := start(t, path, options{fold: folds[lies%len(folds)]})
					heads := []int64{beginning, beginning}
					push := func(i int) {
						b := f.newBatch(rnd, i, heads[i])
						if status, _ := f.push(s, b); status != http.StatusOK {
							t.Fatalf("a push is answered with %d", status)
						}
						heads[i] = b.head
					}
					for range before {
						push(0)
					}
					push(1)
					n := -1
					told = false
					d.SetHook(func(op disk.Op) error {
						if op.Kind != disk.Write {
							return nil
						}
						if n++; n == lie {
							told, meta = true, op.Off < 2*4096
							return disk.ErrLost
						}
						return nil
					})
					push(0)
					d.SetHook(nil)
					for i := range further {
						push(i % 2)
					}
					s.kill()
					if !told {
						break
					}
					lies++
					d.Reset(d.Files())
					after := launch(t, path, options{})
					switch {
					case !after.await():
						if code := after.exit(10 * time.Second); code != 65 {
							t.Fatalf("the server refuses with %d: %s", code, after.stderr.tail())
						}
						oneLine(t, after.stderr.String())
						refused++
					case meta && further == 0:
						// The file is that of the commit before, whole and sound:
						// nothing in it can tell.
						older++
						after.kill()
					default:
						f.settle(after)
						after.kill()
						repaired++
					}
				}
				if !told {
					break
				}
			}
		}
	}
	if refused == 0 || repaired == 0 {
		t.Errorf("%d refused, %d repaired: too few", refused, repaired)
	}
	counts(t, "%d lost writes reported as done: %d refused at the next start, %d replaced by later commits with nothing missing, "+
		"%d of the very last meta page, which leaves the commit before (see the limits)", lies, refused, repaired, older)
}

// TestF7FailedSyncs makes the n-th sync fail, of data and of the meta page in
// turn, under load: the server must answer 503 and end within a second, and what
// it leaves must have all that was acknowledged, with and without a power cut.
func TestF7FailedSyncs(t *testing.T) { failSyncs(t, disk.Sync, size(20, 200)) }

// TestF8FailedWrites does the same to writes; the sync of the meta page, whose
// outcome nobody can know, is among those of F7.
func TestF8FailedWrites(t *testing.T) { failSyncs(t, disk.Write, size(20, 200)) }

func failSyncs(t *testing.T, kind disk.Kind, positions int) {
	rnd := newRandom(t)
	d := newDisk(t)
	path := filepath.Join(d.Dir, "tidemark.db")
	total := newFleet(t, 0, 0)
	var slowest time.Duration
	failures := 0
	for position := range positions {
		for _, cut := range []bool{false, true} {
			d.Reset(nil)
			f := newFleet(t, 8, 6)
			f.record = d.Powered
			s := start(t, path, options{fold: folds[position%len(folds)]})
			_, wait := f.run(s, rnd)
			f.awaitAcks(10)
			stall(t, s)
			n := -1
			failed := make(chan time.Time, 1)
			d.SetHook(func(op disk.Op) error {
				if op.Kind != kind {
					return nil
				}
				if n++; n == position {
					failed <- time.Now()
				}
				if n >= position {
					return syscall.EIO
				}
				return nil
			})
			at := <-failed
			code := s.exit(20 * time.Second)
			took := time.Since(at)
			if took > allowed(time.Second) {
				t.Errorf("position %d: the end took %v", position, took)
			}
			slowest = max(slowest, took)
			if code != 74 {
				t.Fatalf("position %d: the server exits with %d after a failed sync: %s", position, code, s.stderr.tail())
			}
			wait()
			d.SetHook(nil)
			images := d.Files()
			if cut {
				images = d.Cut(rnd)
			}
			d.Reset(images)
			s = start(t, path, options{})
			f.settle(s)
			_, wait = f.run(s, rnd)
			f.awaitAcks(10)
			s.kill()
			wait()
			total.acks.Add(f.acks.Load())
			total.replay, total.anew = total.replay+f.replay, total.anew+f.anew
			failures++
		}
	}
	what := map[disk.Kind]string{disk.Sync: "syncs of data and meta pages", disk.Write: "writes"}[kind]
	counts(t, "%d failed %s at %d positions, exit 74 within %d ms, %s", failures, what, positions, slowest.Milliseconds(), total.result())
}

// stall leaves a request unfinished, which must not hold up the end of the server.
func stall(t testing.TB, s *server) {
	t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	fmt.Fprintf(c, "POST /v1/sync?lastMutationAt=-1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
}

var goroutines = regexp.MustCompile(`total (\d+)`)

// TestF9SlowSyncs makes each sync take two seconds while more devices push than
// may wait.
func TestF9SlowSyncs(t *testing.T) {
	t.Parallel()
	rnd := newRandom(t)
	d := newDisk(t)
	path := filepath.Join(d.Dir, "tidemark.db")
	profiles := "127.0.0.1:" + freePort(t)
	s := start(t, path, options{args: []string{"--pprof", profiles}})
	const delay = 2 * time.Second
	pushers := 1400
	f := newFleet(t, pushers, pushers)
	counted := func() int {
		probe := &server{t: t, addr: profiles, client: http.DefaultClient}
		_, body := probe.get("/debug/pprof/goroutine?debug=1", "")
		n, _ := strconv.Atoi(string(goroutines.FindSubmatch(body)[1]))
		return n
	}
	quick := newFleet(t, 8, 8)
	stop, wait := quick.run(s, rnd)
	quick.awaitAcks(100)
	stop()
	wait()
	s.client.CloseIdleConnections()
	idle := counted()

	d.SetSyncDelay(delay)
	var refused, advised atomic.Int64
	var reads []time.Duration
	var done atomic.Bool
	var reading, pushing sync.WaitGroup
	reading.Go(func() {
		for !done.Load() {
			began := time.Now()
			if _, ok := quick.head(s, "user-1"); !ok {
				t.Error("a read fails while syncs are slow")
			}
			reads = append(reads, time.Since(began))
			time.Sleep(10 * time.Millisecond)
		}
	})
	for i := range pushers {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		pushing.Go(func() {
			b := f.newBatch(rnd, i, beginning)
			b.user = fmt.Sprint("slow-", i)
			switch status, header := f.push(s, b); status {
			case http.StatusServiceUnavailable:
				refused.Add(1)
				if header.Get("Retry-After") != "" {
					advised.Add(1)
				}
			case http.StatusOK:
			default:
				t.Errorf("a push is answered with %d", status)
			}
		})
	}
	pushing.Wait()
	done.Store(true)
	reading.Wait()
	d.SetSyncDelay(0)
	if refused.Load() == 0 || refused.Load() != advised.Load() || f.acks.Load() == 0 {
		t.Errorf("%d acknowledged, %d refused, %d of them with Retry-After", f.acks.Load(), refused.Load(), advised.Load())
	}
	slices.Sort(reads)
	median, worst := reads[len(reads)/2], reads[len(reads)-1]
	if worst > delay+allowed(500*time.Millisecond) {
		t.Errorf("a read took %v, longer than one sync", worst)
	}
	began := time.Now()
	stop, wait = quick.run(s, rnd)
	quick.awaitAcks(100)
	stop()
	wait()
	if took := time.Since(began); took > allowed(2*time.Second) {
		t.Errorf("100 pushes took %v after the syncs were quick again", took)
	}
	s.client.CloseIdleConnections()
	await(t, "the goroutines to end", func() bool { return counted() <= idle+10 })
	counts(t, "syncs of %v: %d pushes acknowledged, %d refused with 503 and Retry-After, %d reads, median %v, slowest %v, no goroutine left over",
		delay, f.acks.Load(), refused.Load(), len(reads), median.Round(time.Microsecond), worst.Round(time.Millisecond))
	s.stop()
	check(t, path)
}
