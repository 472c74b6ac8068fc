package postgrestest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestURL gives each test an empty database of its own.
func TestURL(t *testing.T) {
	found, err := findTools()
	if err != nil {
		skip(t, err)
	}
	first, second := URL(t), URL(t)
	if _, err := psql(found, first, "CREATE TABLE here (a int)"); err != nil {
		t.Fatal(err)
	}
	if _, err := psql(found, second, "SELECT FROM here"); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a table of one database is seen in the next: %v", err)
	}
	if sync, err := psql(found, first, "SHOW fsync"); sync != "on" || err != nil {
		t.Errorf("fsync is %q, %v, want on", sync, err)
	}
}

// TestCluster stops, restarts, hangs and reaches a server in each of its ways.
func TestCluster(t *testing.T) {
	c := Start(t, Options{TCP: true, Settings: []string{"max_connections = 17"}})
	database := c.Database(t)
	ask := func(url string) string {
		t.Helper()
		got, err := psql(c.tools, url, "SHOW max_connections")
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := ask(c.TCPURL(c.TCP(), database)); got != "17" {
		t.Errorf("max_connections is %s, want 17", got)
	}
	for _, mode := range []Mode{Fast, Immediate} {
		before := c.PID(t)
		c.Restart(t, mode)
		if after := c.PID(t); after == before {
			t.Errorf("after a restart that is %s the server is the process %d as before", mode, before)
		}
		ask(c.URL(database))
	}
	answered := make(chan error, 1)
	c.Signal(t, syscall.SIGSTOP)
	go func() {
		_, err := psql(c.tools, c.URL(database), "SELECT 1")
		answered <- err
	}()
	select {
	case err := <-answered:
		t.Errorf("a stopped server answers: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	c.Signal(t, syscall.SIGCONT)
	if err := <-answered; err != nil {
		t.Errorf("after SIGCONT: %v", err)
	}
	c.Stop(t, Fast)
	if _, err := psql(c.tools, c.URL(database), "SELECT 1"); err == nil {
		t.Error("a server that was stopped answers")
	}
	c.Start(t)
	ask(c.URL(database))
}

// TestEndsWithTheProcess kills a test process whose server hangs, and expects
// the server and its files to be gone.
func TestEndsWithTheProcess(t *testing.T) {
	if os.Getenv("POSTGRESTEST_CHILD") != "" {
		c := Start(t, Options{})
		c.Signal(t, syscall.SIGSTOP)
		fmt.Printf("%s %d\n", c.dir, c.PID(t))
		select {}
	}
	if _, err := findTools(); err != nil {
		skip(t, err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestEndsWithTheProcess$")
	child.Env = append(os.Environ(), "POSTGRESTEST_CHILD=1")
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var dir string
	var pid int
	if _, err := fmt.Fscan(out, &dir, &pid); err != nil {
		t.Fatal(err)
	}
	child.Process.Kill()
	child.Wait()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, err := os.Stat(dir)
		gone := errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
		if gone && errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the process of the server has ended: %t; its files: %v", gone, err)
		}
	}
}
