//go:build unix

package postgrestest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Mode is how a server is stopped.
type Mode string

// The modes of pg_ctl.
const (
	// Fast rolls back what is under way, ends the connections and writes all to
	// its place.
	Fast Mode = "fast"

	// Immediate ends at once, as a crash does; the next start recovers.
	Immediate Mode = "immediate"
)

// start starts the server and returns once it takes connections.
func (c *Cluster) start() error {
	if err := c.run("pg_ctl", "-D", c.data(), "-l", c.logFile(), "-w", "-t", "60", "start"); err != nil {
		return fmt.Errorf("%w\n%s", err, c.Log())
	}
	return nil
}

// Start starts the server after Stop, and returns once it takes connections.
func (c *Cluster) Start(t testing.TB) {
	t.Helper()
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
}

// Stop stops the server and returns once it has ended.
func (c *Cluster) Stop(t testing.TB, mode Mode) {
	t.Helper()
	if err := c.run("pg_ctl", "-D", c.data(), "-m", string(mode), "-w", "-t", "60", "stop"); err != nil {
		t.Fatal(err)
	}
}

// Restart stops the server, starts it again with its present settings, and
// returns once it takes connections.
func (c *Cluster) Restart(t testing.TB, mode Mode) {
	t.Helper()
	c.Stop(t, mode)
	c.Start(t)
}

// Configure adds settings, as "name = value"; of two for one name the later
// counts. They apply from the next start, or once the server is told with
// pg_reload_conf().
func (c *Cluster) Configure(settings ...string) error {
	f, err := os.OpenFile(filepath.Join(c.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.Join(settings, "\n") + "\n")
	return errors.Join(err, f.Close())
}

// PID returns the id of the server's first process.
func (c *Cluster) PID(t testing.TB) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.data(), "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(line)
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// Signal sends sig to all processes of the server: with SIGSTOP it hangs, until
// SIGCONT.
func (c *Cluster) Signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	first := c.PID(t)
	// The first comes first: stopped, it starts no more.
	for _, pid := range append([]int{first}, children(t, first)...) {
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
}

// children returns the processes that have parent for their parent.
func children(t testing.TB, parent int) (pids []int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may hold anything.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
