package faults_test

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tidemark/faults/disk"
)

// powerCut lets devices push to a server on d, and cuts the power at any moment;
// sometimes the server has been killed just before, and another has read what it
// left. What the cut leaves is on d again afterwards.
func powerCut(t testing.TB, f *fleet, d *disk.Disk, rnd *rand.Rand, s *server) {
	t.Helper()
	d.SetSyncDelay(time.Duration(rnd.Int64N(2) * rnd.Int64N(int64(3*time.Millisecond))))
	_, wait := f.run(s, rnd)
	f.awaitAcks(8)
	time.Sleep(time.Duration(rnd.Int64N(int64(60 * time.Millisecond))))
	if rnd.IntN(4) == 0 {
		d.SetHook(func(disk.Op) error { return syscall.EIO }) // a sync under way dies with the process
		s.kill()
		wait()
		d.SetHook(nil)
		s = start(t, s.store, s.options)
		for i := range f.users {
			f.head(s, f.user(i))
		}
	}
	images := d.Cut(rnd)
	s.kill()
	wait()
	d.Reset(images)
}

// TestF3PowerCuts cuts the power of a disk that loses what was not synced.
func TestF3PowerCuts(t *testing.T) {
	rnd := newRandom(t)
	d := newDisk(t)
	store := filepath.Join(d.Dir, "tidemark.db")
	f := newFleet(t, 8, 6)
	f.record = d.Powered
	cuts := size(300, 10000)
	began := time.Now()
	for i := range cuts {
		if i%20 == 0 {
			d.Reset(nil)
			f.logs, f.byID = map[string]*journal{}, map[string]*batch{}
		}
		s := start(t, store, options{fold: folds[i/20%len(folds)]})
		f.settle(s)
		powerCut(t, f, d, rnd, s)
		if i%20 == 19 || i == cuts-1 {
			check(t, store)
			s := start(t, store, options{})
			f.settle(s)
			f.verify(s, true)
			s.stop()
		}
	}
	counts(t, "%d power cuts in %.0f s, %s", cuts, time.Since(began).Seconds(), f.result())
}

// TestF3Control shows that the test of power cuts would notice a server that
// does not sync, and a disk that ignores that it does.
func TestF3Control(t *testing.T) {
	for name, o := range map[string]options{
		"server without syncs": {program: program(t, "nosync")},
		"disk without syncs":   {},
	} {
		t.Run(name, func(t *testing.T) {
			rnd := newRandom(t)
			d := newDisk(t)
			store := filepath.Join(d.Dir, "tidemark.db")
			const most = 20
			for cut := range most {
				d.Reset(nil)
				f := newFleet(t, 8, 6)
				f.record = d.Powered
				s := start(t, store, o)
				if o.program == "" {
					d.SetHook(func(op disk.Op) error {
						if op.Kind == disk.Sync {
							return disk.ErrLost
						}
						return nil
					})
				}
				powerCut(t, f, d, rnd, s)
				if lost := lost(t, f, store); lost != "" {
					counts(t, "control: a %s loses data at cut %d (%s), as it must", name, cut+1, lost)
					return
				}
			}
			t.Errorf("%d power cuts of a %s have lost nothing: this test proves nothing", most, name)
		})
	}
}

// lost tells what of the devices' data is not in store, if any.
func lost(t *testing.T, f *fleet, store string) string {
	if _, err := os.Stat(store); err != nil {
		return "the store is gone"
	}
	if code, _ := run(t, "check", "--store", store); code != 0 {
		return "the store is unsound"
	}
	s := start(t, store, options{})
	defer s.kill()
	for user, log := range f.logs {
		told := log.told
		if head, _ := f.head(s, user); head < told {
			return "heads went back"
		}
	}
	return ""
}

// killer kills the server at one operation on the disk.
type killer struct {
	pid     chan int // gets the process
	reached chan struct{}
}

// killAt makes the server die at operation step, from 0, of those that follow:
// before it is done, or right after.
func killAt(d *disk.Disk, step int, after bool) *killer {
	k := &killer{make(chan int, 1), make(chan struct{})}
	n := -1
	d.SetHook(func(disk.Op) error {
		n++
		switch {
		case n > step:
			return syscall.EIO // the process is dead
		case n < step:
			return nil
		}
		syscall.Kill(<-k.pid, syscall.SIGKILL)
		close(k.reached)
		if after {
			return nil
		}
		return syscall.EIO
	})
	return k
}

// hit tells whether the step was reached.
func (k *killer) hit() bool {
	select {
	case <-k.reached:
		return true
	default:
		return false
	}
}

// TestF17Creation kills the server, or cuts the power, at each step of the
// creation of a store: the next start must find a whole store, or none.
func TestF17Creation(t *testing.T) {
	rnd := newRandom(t)
	d := newDisk(t)
	store := filepath.Join(d.Dir, "tidemark.db")
	crashes, steps := 0, 0
	for _, how := range []struct {
		after, cut bool
		times      int
	}{{false, false, 1}, {true, false, 1}, {true, true, size(4, 100)}} {
		hit := true
		for step := 0; hit; step++ {
			for range how.times {
				d.Reset(nil)
				k := killAt(d, step, how.after)
				s := launch(t, store, options{})
				k.pid <- s.cmd.Process.Pid
				s.await()
				if hit = k.hit(); !hit {
					s.kill()
					break
				}
				images := d.Files()
				if how.cut {
					images = d.Cut(rnd)
				}
				s.kill()
				d.Reset(images)
				after := start(t, store, options{})
				if head, ok := newFleet(t, 1, 1).head(after, "anybody"); !ok || head != beginning {
					t.Fatalf("step %d: the head of an empty log is %d, %t", step, head, ok)
				}
				after.stop()
				check(t, store)
				crashes, steps = crashes+1, max(steps, step+1)
			}
		}
	}
	if steps < 10 {
		t.Errorf("there were only %d steps to crash at", steps)
	}
	counts(t, "%d crashes at the %d steps of the creation of a store, all started afterwards", crashes, steps)
}
