package history

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
)

// process is a running server.
type process struct {
	cmd   *exec.Cmd
	addr  string
	log   syncBuffer
	ended chan struct{}
}

// startProcess starts the server of the binary on a store.
func startProcess(binary, store string) (*process, error) {
	p := &process{ended: make(chan struct{})}
	p.cmd = exec.Command(binary, "serve", "--addr", "127.0.0.1:0", "--store", store, "--log-level", "error")
	p.cmd.Stderr = &p.log
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(out)
	line, _ := lines.ReadString('\n')
	_, p.addr, _ = strings.Cut(strings.TrimSpace(line), " on http://")
	go func() {
		io.Copy(io.Discard, lines)
		p.cmd.Wait()
		close(p.ended)
	}()
	if p.addr == "" {
		p.kill()
		return nil, fmt.Errorf("the server did not start: %s%s", line, p.log.String())
	}
	return p, nil
}

// kill ends the process as a crash would, and waits for its end.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// stop ends the process in good order and returns its exit code.
func (p *process) stop() int {
	p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.ended
	return p.cmd.ProcessState.ExitCode()
}

// syncBuffer is a buffer for what a process writes while others read.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
