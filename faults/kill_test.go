package faults_test

import (
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// await waits until done, or fails the test.
func await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// folds are settings for how often batches are folded: as in service, where that
// is too rare for a short test, often, and all the time.
var folds = []int{0, 200, 5}

// TestF1KillUnderLoad kills the server at any moment while devices push.
func TestF1KillUnderLoad(t *testing.T) {
	rnd := newRandom(t)
	f := newFleet(t, 8, 6)
	store := ""
	cycles := size(100, 5000)
	var slowest, busy time.Duration
	for i := range cycles {
		if i%5 == 0 { // a large log makes the comparison slow
			if store != "" {
				os.RemoveAll(filepath.Dir(store)) // thousands of them would fill the memory
			}
			store = filepath.Join(scratch(t), "tidemark.db")
			f.logs, f.byID = map[string]*journal{}, map[string]*batch{}
		}
		s := start(t, store, options{fold: folds[i/5%len(folds)]})
		if s.ready > allowed(2*time.Second) {
			t.Errorf("start %d took %v", i, s.ready)
		}
		slowest = max(slowest, s.ready)
		f.settle(s)
		began := time.Now()
		_, wait := f.run(s, rnd)
		f.awaitAcks(10)
		time.Sleep(2*time.Millisecond + time.Duration(rnd.Int64N(int64(298*time.Millisecond))))
		s.kill()
		busy += time.Since(began)
		wait()
		check(t, store)
		if i%5 == 4 || i == cycles-1 {
			s := start(t, store, options{})
			f.settle(s)
			f.verify(s, true)
			s.stop()
		}
	}
	rate := float64(f.acks.Load()) / busy.Seconds()
	if rate < 100 {
		t.Errorf("only %.0f pushes a second: too idle to prove anything", rate)
	}
	counts(t, "%d kills under %d devices, %.0f acks/s, ready again within %d ms, %s", cycles, f.devices, rate, slowest.Milliseconds(), f.result())
}

// TestF2KillAtEachStep kills the server before and after each write and sync of
// commits: of one push, of several, of pushes that make the file grow, and of
// those that settle the index.
func TestF2KillAtEachStep(t *testing.T) {
	rnd := newRandom(t)
	d := newDisk(t)
	store := filepath.Join(d.Dir, "tidemark.db")
	kills, steps := 0, 0
	total := newFleet(t, 0, 0)
	for name, w := range map[string]struct{ devices, before, large, fold int }{
		"one push":            {1, 3, 0, 0},
		"one that folds":      {1, 3, 0, 1},
		"one that settles":    {1, 31, 0, 1},
		"several at once":     {6, 3, 0, 2},
		"the file grows":      {3, 3, 40000, 0},
		"and all of it":       {6, 31, 8000, 1},
		"the first of a user": {4, 0, 0, 0},
	} {
		for _, after := range []bool{false, true} {
			d.Reset(nil)
			f := newFleet(t, w.devices, w.devices)
			f.large = w.large
			s := start(t, store, options{fold: w.fold})
			heads := make([]int64, w.devices)
			for i := range heads {
				heads[i] = beginning
			}
			push := func(i int) {
				b := f.newBatch(rnd, i, heads[i])
				if status, _ := f.push(s, b); status == 200 {
					heads[i] = b.head
				}
			}
			all := func() {
				var wg sync.WaitGroup
				for i := range heads {
					wg.Go(func() { push(i) })
				}
				wg.Wait()
			}
			for range w.before {
				all()
			}
			s.stop()
			base, known := d.Files(), append([]int64(nil), heads...)
			for step := 0; ; step++ {
				d.Reset(base)
				copy(heads, known)
				fresh := newFleet(t, w.devices, w.devices) // the journal of before stays as it is
				fresh.large, fresh.next = w.large, f.next
				s := start(t, store, options{fold: w.fold})
				fresh.adopt(f)
				push = func(i int) { fresh.push(s, fresh.newBatch(rnd, i, heads[i])) }
				k := killAt(d, step, after)
				k.pid <- s.cmd.Process.Pid
				all()
				hit := k.hit()
				s.kill()
				d.Reset(d.Files())
				s = start(t, store, options{})
				fresh.settle(s)
				fresh.verify(s, true)
				s.kill()
				check(t, store)
				total.acks.Add(fresh.acks.Load())
				total.replay, total.anew = total.replay+fresh.replay, total.anew+fresh.anew
				if !hit {
					break
				}
				kills, steps = kills+1, max(steps, step+1)
			}
			if t.Failed() {
				t.Fatalf("%s, killed after the step: %t", name, after)
			}
		}
	}
	if kills < 100 || steps < 10 {
		t.Errorf("only %d kills at up to %d steps: commits were not met", kills, steps)
	}
	counts(t, "%d kills at each of up to %d steps of a commit, %s", kills, steps, total.result())
}

// TestF19Stopped stops the process for a while, as a paused machine does: its
// clients give up, nobody else may open the store, and nothing is applied twice
// after it goes on.
func TestF19Stopped(t *testing.T) {
	t.Parallel()
	store := filepath.Join(scratch(t), "tidemark.db")
	f := newFleet(t, 8, 6)
	s := start(t, store, options{})
	s.client.Timeout = time.Second
	pause := time.Duration(size(6, 30)) * time.Second
	_, wait := f.run(s, newRandom(t))
	f.awaitAcks(100)
	if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	wait() // every client gives up
	acks := f.acks.Load()
	code, out := run(t, "serve", "--addr", "127.0.0.1:0", "--store", store)
	if code != 75 {
		t.Errorf("a second server on the store of a stopped one exits with %d, want 75", code)
	}
	oneLine(t, out)
	time.Sleep(time.Until(began.Add(pause)))
	if err := s.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.client.Timeout = 30 * time.Second
	time.Sleep(500 * time.Millisecond) // what was sent before is applied now, or never
	f.settle(s)
	stop, wait := f.run(s, newRandom(t))
	f.awaitAcks(100)
	stop()
	wait()
	f.settle(s)
	f.verify(s, true)
	s.stop()
	check(t, store)
	counts(t, "stopped for %v, a second server refused with 75, %d acks before and %d after, %s", pause, acks, f.acks.Load()-acks, f.result())
}

// TestF37TwoServers starts a second server on a store that is served, and two at
// once on one that is not there yet.
func TestF37TwoServers(t *testing.T) {
	t.Parallel()
	store := filepath.Join(scratch(t), "tidemark.db")
	f := newFleet(t, 8, 6)
	s := start(t, store, options{})
	stop, wait := f.run(s, newRandom(t))
	f.awaitAcks(50)
	code, out := run(t, "serve", "--addr", "127.0.0.1:0", "--store", store)
	if code != 75 {
		t.Errorf("the second server exits with %d, want 75", code)
	}
	oneLine(t, out)
	f.awaitAcks(50)
	stop()
	wait()
	f.settle(s)
	s.stop()
	check(t, store)

	store = filepath.Join(scratch(t), "new.db")
	a, b := launch(t, store, options{}), launch(t, store, options{})
	served := 0
	for _, s := range []*server{a, b} {
		if s.await() {
			served++
		} else if code := s.exit(10 * time.Second); code != 75 {
			t.Errorf("the server that came second exits with %d, want 75: %s", code, s.stderr.tail())
		}
	}
	if served != 1 {
		t.Errorf("%d of two servers serve a store that they both create, want 1", served)
	}
	counts(t, "the second server on a store ends with 75, of two that create it one; %s", f.result())
}
