package history

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestAcknowledgedIsSynced proves that no push is acknowledged before its data
// and the page that makes it visible have been synced to the disk.
func TestAcknowledgedIsSynced(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a server")
	}
	binary := *binFlag
	if binary == "" {
		binary = build(t)
	}
	if err := unsynced(t, binary); err != nil {
		t.Error(err)
	}
}

// unsynced pushes to a server whose system calls are traced. kill -9 cannot see
// a missing sync, because the kernel keeps what was written; the trace can.
func unsynced(t *testing.T, binary string) error {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("strace is missing")
		}
		t.Skip("SKIP: strace is missing")
	}
	dir := t.TempDir()
	server, err := startProcess(binary, filepath.Join(dir, "tidemark.db"))
	if err != nil {
		return err
	}
	defer server.kill()
	trace := filepath.Join(dir, "trace")
	strace := exec.Command("strace", "-f", "-qq", "-ttt", "-T", "-o", trace, "-e", "trace=pwrite64,fdatasync,fsync", "-p", strconv.Itoa(server.cmd.Process.Pid))
	if err := strace.Start(); err != nil {
		return err
	}
	w := newWire(server.addr, "somebody")
	defer w.close()
	const pushes = 20
	head := beginning
	time.Sleep(200 * time.Millisecond) // strace says nothing when it is ready; the writes are counted below
	var acked []float64
	for i := range pushes {
		a, err := w.push(&pushInput{base: head, content: &content{mutations: []mutation{
			{kind: "CREATE", resource: "NOTE", data: fmt.Sprintf(`{"n":%d}`, i)}}}}, false)
		if err != nil || a.status != 200 {
			return fmt.Errorf("push %d: %v %+v", i, err, a)
		}
		head = a.head
		acked = append(acked, float64(time.Now().UnixNano())/1e9)
	}
	strace.Process.Signal(syscall.SIGINT)
	strace.Wait()
	calls, err := readTrace(trace)
	if err != nil {
		return err
	}
	return everyWriteSynced(calls, acked)
}

// call is one system call that has succeeded.
type call struct {
	write bool
	end   float64 // seconds since 1970
}

var traceLine = regexp.MustCompile(`^\d+ +([\d.]+) (?:<\.\.\. )?(pwrite64|fdatasync|fsync)\b.* = \d+ <([\d.]+)>$`)

func readTrace(file string) (calls []call, err error) {
	text, err := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		m := traceLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		at, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return nil, err
		}
		took, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, err
		}
		end := at // a line that resumes a call tells when it ended
		if !strings.Contains(line, "<... ") {
			end += took
		}
		calls = append(calls, call{m[2] == "pwrite64", end})
	}
	return calls, err
}

// everyWriteSynced tells of the first acknowledgement that no write and sync
// precede, or whose last write no sync follows.
func everyWriteSynced(calls []call, acked []float64) error {
	from := 0.0
	for i, at := range acked {
		writes, syncs, dirty := 0, 0, false
		for _, c := range calls {
			if c.end <= from || c.end > at {
				continue
			}
			if dirty = c.write; c.write {
				writes++
			} else {
				syncs++
			}
		}
		if i > 0 && (writes == 0 || syncs == 0 || dirty) {
			return fmt.Errorf("push %d was acknowledged after %d writes and %d syncs, the last of them a write: %v", i, writes, syncs, dirty)
		}
		from = at
	}
	return nil
}
