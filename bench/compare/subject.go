package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"tidemark/bench/load"
)

// subject is a server under load, a process of its own.
type subject struct {
	url   *url.URL
	pprof string // where it serves profiles, or ""
	cmd   *exec.Cmd
}

var address = regexp.MustCompile(`http://[0-9.:]+`)

// garbage is how much garbage every subject may gather before it collects it:
// what tidemark sets for itself, so that this is no part of any difference.
const garbage = "GOGC=400"

// start starts a subject and returns once it has said where it listens.
func (b *bench) start(ctx context.Context, binary string, args ...string) (*subject, error) {
	s := &subject{cmd: exec.CommandContext(ctx, b.path(binary), args...)}
	s.cmd.Stderr = os.Stderr
	s.cmd.Env = append(os.Environ(), garbage)
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = 20 * time.Second
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(out)
	for s.url == nil {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s did not start", binary), s.cmd.Wait())
		}
		s.url, _ = url.Parse(address.FindString(line))
		if s.url.Host == "" {
			s.url = nil
		}
	}
	go io.Copy(io.Discard, lines)
	return s, nil
}

// tidemark starts the real server on a store.
func (b *bench) tidemark(ctx context.Context, store string) (*subject, error) {
	args := []string{"serve", "--addr", "127.0.0.1:0", "--store", store, "--log-level", "warn"}
	pprof := ""
	if b.profiles != "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		pprof = l.Addr().String()
		l.Close() // the port is free for the server then
		args = append(args, "--pprof", pprof)
	}
	s, err := b.start(ctx, "tidemark", args...)
	if err == nil {
		s.pprof = pprof
	}
	return s, err
}

// stop ends the subject, which must end well.
func (s *subject) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGTERM {
		return nil // PocketBase leaves it at that
	}
	return err
}

// with runs fn on a subject and stops it.
func with(s *subject, err error, fn func(*subject) error) error {
	if err != nil {
		return err
	}
	return errors.Join(fn(s), s.stop())
}

// cpu returns the CPU time that the subject has used, as Linux tells it.
func (s *subject) cpu() time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	// The name of the program, in parentheses, may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * time.Second / 100
}

// measure puts load on a subject for the length of a measurement, after a
// quarter of it to warm up, and notes what came of it under the trial's name.
// Of the requests, only those of one kind are counted.
func (b *bench) measure(ctx context.Context, trial string, s *subject, kind load.Kind, devices []load.Device) error {
	if _, err := b.load(ctx, s, devices, b.length/4); err != nil {
		return err
	}
	profiled := b.profile(trial, s)
	before := s.cpu()
	r, err := b.load(ctx, s, devices, b.length)
	if err != nil {
		return err
	}
	k := r.Kinds[kind.String()]
	b.note(trial, figure{perSecond: k.PerSecond, p50: k.Latency.P50, p99: k.Latency.P99,
		cpu: (s.cpu() - before) / time.Duration(r.Requests)})
	return <-profiled
}

// load puts load on a subject. One wrong answer makes the figures worthless.
func (b *bench) load(ctx context.Context, s *subject, devices []load.Device, length time.Duration) (*load.Report, error) {
	return checked(ctx, load.Run(ctx, load.Options{URL: s.url, Duration: length}, devices))
}

func checked(ctx context.Context, r *load.Report) (*load.Report, error) {
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case r.ErrorCount > 0 || r.Requests == 0:
		return nil, fmt.Errorf("%d answers as they should be, errors: %v", r.Requests, r.Errors)
	}
	return r, nil
}

func (b *bench) note(trial string, f figure) { b.figures[trial] = append(b.figures[trial], f) }

// profile takes a CPU profile while a measurement runs, if that is wanted.
func (b *bench) profile(trial string, s *subject) <-chan error {
	done := make(chan error, 1)
	if s.pprof == "" {
		done <- nil
		return done
	}
	go func() { done <- b.fetchProfile(trial, s) }()
	return done
}

func (b *bench) fetchProfile(trial string, s *subject) error {
	seconds := max(1, int(b.length.Seconds()))
	res, err := http.Get(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.pprof, seconds))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := os.MkdirAll(b.profiles, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(b.profiles, strings.ReplaceAll(trial, "/", "-")+".pb.gz"))
	if err != nil {
		return err
	}
	_, err = io.Copy(f, res.Body)
	return errors.Join(err, f.Close())
}
