package faults_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tidemark/faults/disk"
)

// tmpfs mounts a file system in memory with these options, or skips the test.
func tmpfs(t testing.TB, flags uintptr, options string) (dir string) {
	t.Helper()
	dir = filepath.Join(scratch(t), "tmpfs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		notRun(t, "tmpfs cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes a file until the disk is full.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, size := range []int{64 << 10, 4 << 10} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// noRoom lets devices push until free has taken away their room and given it
// back: pushes must be refused with 503 and reads go on, and pushes be accepted
// again within a second, by the same process.
func noRoom(t *testing.T, s *server, f *fleet, store string, take, give func()) {
	t.Helper()
	rnd := newRandom(t)
	stop, wait := f.run(s, rnd)
	f.awaitAcks(50)
	stop()
	wait()
	take()
	var refused, reads atomic.Int64
	for i := range 200 {
		head, ok := f.head(s, f.user(i))
		if !ok {
			t.Fatal("a read fails while there is no room")
		}
		reads.Add(1)
		b := f.newBatch(rnd, i, head)
		switch status, header := f.push(s, b); status {
		case http.StatusServiceUnavailable:
			refused.Add(1)
			if header.Get("Retry-After") == "" {
				t.Error("a 503 without Retry-After")
			}
		case http.StatusOK: // a small one may still find room
		default:
			t.Fatalf("a push is answered with %d: %s", status, s.stderr.tail())
		}
	}
	if refused.Load() < 10 {
		t.Errorf("only %d of 200 pushes were refused", refused.Load())
	}
	before := f.acks.Load()
	f.verify(s, false)
	give()
	began := time.Now()
	stop, wait = f.run(s, rnd)
	f.awaitAcks(1)
	again := time.Since(began)
	f.awaitAcks(50)
	stop()
	wait()
	if again > allowed(time.Second) {
		t.Errorf("pushes were accepted again after %v", again)
	}
	f.settle(s)
	f.verify(s, true)
	s.stop()
	check(t, store)
	counts(t, "%s: %d acks, then %d pushes refused with 503 while %d reads were answered, writing again after %d ms without a restart, %s",
		t.Name(), before, refused.Load(), reads.Load(), again.Milliseconds(), f.result())
}

// TestF10DiskFull fills the disk.
func TestF10DiskFull(t *testing.T) {
	dir := tmpfs(t, 0, "size=4m")
	store, ballast := filepath.Join(dir, "tidemark.db"), filepath.Join(dir, "ballast")
	f := newFleet(t, 8, 6)
	f.large = 5000
	noRoom(t, start(t, store, options{fold: 20}), f, store,
		func() { fill(t, ballast) },
		func() { os.Remove(ballast) })
}

// TestF10StartOnFullDisk starts on a full disk: what is there can be read.
func TestF10StartOnFullDisk(t *testing.T) {
	dir := tmpfs(t, 0, "size=4m")
	store, ballast := filepath.Join(dir, "tidemark.db"), filepath.Join(dir, "ballast")
	f := newFleet(t, 8, 6)
	s := start(t, store, options{})
	stop, wait := f.run(s, newRandom(t))
	f.awaitAcks(50)
	stop()
	wait()
	fill(t, ballast)
	s.stop()
	s = start(t, store, options{})
	f.verify(s, true)
	os.Remove(ballast)
	stop, wait = f.run(s, newRandom(t))
	f.awaitAcks(50)
	stop()
	wait()
	f.settle(s)
	s.stop()
	check(t, store)
	counts(t, "%s: stopped and started on a full disk, all there, writing again when it is not", t.Name())
}

// TestF10BackupNeedsRoom makes backups on the disk of the store: one that would
// leave no room for pushes is not begun.
func TestF10BackupNeedsRoom(t *testing.T) {
	dir := tmpfs(t, 0, "size=80m")
	store, ballast := filepath.Join(dir, "tidemark.db"), filepath.Join(dir, "ballast")
	f := newFleet(t, 8, 6)
	s := start(t, store, options{})
	stop, wait := f.run(s, newRandom(t))
	f.awaitAcks(50)
	if code, out := run(t, "backup", filepath.Join(dir, "first.backup"), "--store", store); code != 0 {
		t.Errorf("with room, backup exits with %d: %s", code, out)
	}
	if err := os.WriteFile(ballast, make([]byte, 50<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out := run(t, "backup", filepath.Join(dir, "second.backup"), "--store", store)
	if oneLine(t, out); code != 1 || !strings.Contains(out, "there is no room for a backup") {
		t.Errorf("without room, backup exits with %d: %s", code, out)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "second*")); len(left) > 0 {
		t.Errorf("a backup that was not begun left %q", left)
	}
	f.awaitAcks(50)
	stop()
	wait()
	f.settle(s)
	f.verify(s, true)
	s.stop()
	check(t, store)
	if n := f.refused.Load(); n > 0 {
		t.Errorf("%d pushes were refused", n)
	}
	counts(t, "%s: a backup on the disk of the store refused for want of room, %s", t.Name(), f.result())
}

// TestF11FileSizeLimit lets the file reach a limit of the process, which is then
// raised: in the middle of the file, and when it would have to grow.
func TestF11FileSizeLimit(t *testing.T) {
	if _, err := exec.LookPath("prlimit"); err != nil {
		notRun(t, "%v", err)
	}
	for name, limit := range map[string]func(size int64) int64{
		"below": func(size int64) int64 { return size / 16 },
		"grow":  func(size int64) int64 { return size },
	} {
		t.Run(name, func(t *testing.T) {
			store := filepath.Join(scratch(t), "tidemark.db")
			f := newFleet(t, 8, 6)
			s := start(t, store, options{})
			set := func(limit string) {
				if out, err := exec.Command("prlimit", "--pid", strconv.Itoa(s.cmd.Process.Pid), "--fsize="+limit).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			noRoom(t, s, f, store, func() {
				f.large = 60_000
				info, err := os.Stat(store)
				if err != nil {
					t.Fatal(err)
				}
				set(fmt.Sprintf("%d:", limit(info.Size())))
				rnd := newRandom(t)
				for range 500 {
					head, _ := f.head(s, f.user(1))
					if status, _ := f.push(s, f.newBatch(rnd, 1, head)); status == http.StatusServiceUnavailable {
						break
					}
				}
			}, func() {
				f.large = 0
				set("unlimited:")
			})
		})
	}
}

// TestF12LogDiskFull fills the disk that the log goes to.
func TestF12LogDiskFull(t *testing.T) {
	dir := tmpfs(t, 0, "size=64k")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	store := filepath.Join(scratch(t), "tidemark.db")
	f := newFleet(t, 8, 6)
	s := start(t, store, options{stderr: log, args: []string{"--log-level", "debug"}})
	stop, wait := f.run(s, newRandom(t))
	f.awaitAcks(20)
	await(t, "the log to fill its disk", func() bool {
		_, err := log.Write([]byte("x"))
		return errors.Is(err, syscall.ENOSPC)
	})
	f.awaitAcks(200)
	stop()
	wait()
	f.settle(s)
	s.stop()
	check(t, store)
	counts(t, "no room for the log: %s", f.result())
}

// TestF13Unwritable starts where nothing can be written: without inodes left, on
// a file system that is read only, with and without a store, and takes the right
// to write from a server.
func TestF13Unwritable(t *testing.T) {
	full := tmpfs(t, 0, "nr_inodes=1")
	readOnly := tmpfs(t, 0, "")
	start(t, filepath.Join(readOnly, "tidemark.db"), options{}).stop()
	if err := syscall.Mount("", readOnly, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		notRun(t, "cannot remount: %v", err)
	}
	for name, store := range map[string]string{
		"no inodes":           filepath.Join(full, "tidemark.db"),
		"read only, no store": filepath.Join(readOnly, "other.db"),
		"read only":           filepath.Join(readOnly, "tidemark.db"),
		"no directory":        filepath.Join(full, "a", "tidemark.db"),
		"a directory":         full,
	} {
		code, out := run(t, "serve", "--addr", "127.0.0.1:0", "--store", store)
		if code != 73 {
			t.Errorf("%s: exit code %d, want 73", name, code)
		}
		oneLine(t, out)
	}
	d := newDisk(t)
	store := filepath.Join(d.Dir, "tidemark.db")
	f := newFleet(t, 8, 6)
	s := start(t, store, options{})
	_, wait := f.run(s, newRandom(t))
	f.awaitAcks(50)
	d.SetHook(func(disk.Op) error { return syscall.EROFS })
	if code := s.exit(10 * time.Second); code != 74 {
		t.Errorf("a server that may not write any more exits with %d, want 74", code)
	}
	wait()
	d.Reset(d.Files())
	s = start(t, store, options{})
	f.settle(s)
	stop, wait := f.run(s, newRandom(t))
	f.awaitAcks(50)
	stop()
	wait()
	f.settle(s)
	s.stop()
	counts(t, "5 starts that cannot write refused with 73 and one line, 1 server without the right to write ended with 74, %s", f.result())
}
