package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMeter shows what a log and a terminal get of the same work.
func TestMeter(t *testing.T) {
	for _, c := range []struct {
		name     string
		terminal bool
		step     time.Duration
		want     string
	}{
		{"a log", false, 6 * time.Second,
			"copying: 1.0 GiB of 2.0 GiB (50%), 42.7 MiB/s, 24s left\ncopying: 1.5 GiB of 2.0 GiB (75%), 42.7 MiB/s, 12s left\n"},
		{"a terminal", true, 6 * time.Second,
			"\rcopying: 768.0 MiB of 2.0 GiB (37%), 42.7 MiB/s, 30s left\x1b[K" +
				"\rcopying: 1.0 GiB of 2.0 GiB (50%), 42.7 MiB/s, 24s left\x1b[K" +
				"\rcopying: 1.2 GiB of 2.0 GiB (62%), 42.7 MiB/s, 18s left\x1b[K" +
				"\rcopying: 1.5 GiB of 2.0 GiB (75%), 42.7 MiB/s, 12s left\x1b[K\r\x1b[K"},
		{"a terminal, much at once", true, time.Millisecond, "\r\x1b[K"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			now := time.UnixMilli(0)
			p := newMeter(&out, "copying", inBytes)
			p.terminal, p.now = c.terminal, func() time.Time { return now }
			for done := int64(512 << 20); done <= 1536<<20; done += 256 << 20 {
				p.report(done, 2<<30)
				now = now.Add(c.step)
			}
			p.end()
			if diff := cmp.Diff(c.want, out.String()); diff != "" {
				t.Errorf("(- want, + got)\n%s", diff)
			}
		})
	}
}

// TestMeterOfUnknownTotal: where nobody knows the whole, there is no share
// and no time left.
func TestMeterOfUnknownTotal(t *testing.T) {
	p := newMeter(os.Stderr, "copying", inMutations)
	start := time.UnixMilli(0)
	p.began, p.done = start, 1200
	if got, want := p.line(start.Add(2*time.Second)), "copying: 1200 mutations, 600 mutations/s"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := p.line(start), "copying: 1200 mutations"; got != want {
		t.Errorf("before any time has passed: %q, want %q", got, want)
	}
}
