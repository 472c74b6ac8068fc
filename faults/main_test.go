// Package faults_test makes happen to the real binary what happens to servers:
// it is killed, loses power, runs out of room, and its disk fails, lies and
// rots. Each test is named by its row of the fault matrix, prints its counts in
// one line, and fails if the server did too little work around the fault to
// have met it.
package faults_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tidemark/faults/disk"
)

var (
	long = flag.Bool("long", false, "run the large sizes")
	seed = flag.Uint64("seed", 0, "seed of all random choices; 0 takes a new one")
)

// tempDir holds the binaries, and what is no matter of disks.
var tempDir string

func TestMain(m *testing.M) {
	flag.Parse()
	if *seed == 0 {
		*seed = rand.Uint64()
	}
	fmt.Printf("-seed %d\n", *seed)
	var err error
	if tempDir, err = os.MkdirTemp(memory(), "tidemark-faults-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(tempDir)
	os.Exit(code)
}

// memory is a directory in memory, where syncs cost nothing, if there is one.
func memory() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return ""
}

// scratch makes a directory in memory for the test.
func scratch(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(tempDir, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// size is the size of a test: of each change, with -long, or a tenth with -short.
func size(each, withLong int) int {
	switch {
	case *long:
		return withLong
	case testing.Short():
		return max(each/10, 1)
	}
	return each
}

// allowed is how long what must be done within limit may take here: machines that
// run other things beside the tests have less time for each. What was measured
// is printed as it is.
func allowed(limit time.Duration) time.Duration {
	var load float64
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		fmt.Sscan(string(b), &load)
	}
	return time.Duration(float64(limit) * max(1, load/float64(runtime.NumCPU())))
}

// newRandom returns the random choices of a test, the same for the same -seed.
func newRandom(t testing.TB) *rand.Rand {
	t.Helper()
	sum := uint64(0)
	for _, c := range []byte(t.Name()) {
		sum = sum*31 + uint64(c)
	}
	return rand.New(rand.NewPCG(*seed, sum))
}

// counts prints the line of a row.
func counts(t testing.TB, format string, args ...any) {
	t.Helper()
	row, _, _ := strings.Cut(strings.TrimPrefix(t.Name(), "Test"), "/")
	end := 1
	for end < len(row) && row[end] >= '0' && row[end] <= '9' {
		end++
	}
	fmt.Printf("%s: %s\n", row[:end], fmt.Sprintf(format, args...))
}

// notRun skips a row whose tool is missing: loudly, and in CI as a failure.
func notRun(t testing.TB, reason string, args ...any) {
	t.Helper()
	reason = fmt.Sprintf(reason, args...)
	counts(t, "SKIP, not run: %s", reason)
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot run: %s", reason)
	}
	t.Skip(reason)
}

// newDisk mounts a disk that fails, or skips the test.
func newDisk(t testing.TB) *disk.Disk {
	t.Helper()
	dir := filepath.Join(scratch(t), "disk")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := disk.New(dir)
	if err != nil {
		notRun(t, "FUSE cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// program builds a program of the module once, and returns its path.
func program(t testing.TB, dir string) string {
	t.Helper()
	builtMu.Lock()
	defer builtMu.Unlock()
	build := built[dir]
	if build == nil {
		build = sync.OnceValues(func() (string, error) { return buildProgram(dir) })
		built[dir] = build
	}
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

var (
	builtMu sync.Mutex
	built   = map[string]func() (string, error){}
)

func buildProgram(dir string) (string, error) {
	path := filepath.Join(tempDir, "bin-"+filepath.Base(dir))
	args := []string{"build", "-o", path}
	if underRaceDetector() {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

func tidemark(t testing.TB) string { return program(t, "../cmd/tidemark") }

// underRaceDetector tells whether the tests were built with -race; then the
// server is, too.
func underRaceDetector() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}

// run runs tidemark to its end and returns its exit code and what it printed.
func run(t testing.TB, args ...string) (code int, out string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // serve may start where it must not
	defer cancel()
	cmd := exec.CommandContext(ctx, tidemark(t), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		return exit.ExitCode(), string(b)
	}
	return 0, string(b)
}

// check fails the test unless tidemark finds the store sound.
func check(t testing.TB, store string) {
	t.Helper()
	if code, out := run(t, "check", "--store", store); code != 0 {
		t.Fatalf("tidemark check exits with %d: %s", code, out)
	}
}

// oneLine fails the test unless text is one line that tells of no Go stack.
func oneLine(t testing.TB, text string) {
	t.Helper()
	if strings.Count(text, "\n") != 1 || strings.Contains(text, "goroutine ") {
		t.Errorf("not one line:\n%s", text)
	}
}

// copyFile copies a file.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
