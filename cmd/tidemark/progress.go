package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// meter tells how far long work has come: on a terminal in one line that is
// written anew, elsewhere in a line now and then, for a log.
type meter struct {
	out      io.Writer
	what     string // what is done: "copying"
	unit     unit
	terminal bool
	now      func() time.Time

	mu           sync.Mutex
	began, shown time.Time
	first, done  int64 // at its beginning, and last
	total        int64 // or 0 if nobody knows
}

// unit is what work is counted in.
type unit string

// The units that a meter knows how to write; others are a plain number of.
const (
	inBytes     unit = "bytes"
	inMutations unit = "mutations"
)

// How often a meter writes.
const (
	terminalEvery = 100 * time.Millisecond
	plainEvery    = 10 * time.Second
)

// newMeter returns the meter of what, counted in unit, which out gets to
// know. Call its end when the work has ended, however it has.
func newMeter(out io.Writer, what string, in unit) *meter {
	return &meter{out: out, what: what, unit: in, terminal: isTerminal(out), now: time.Now}
}

// isTerminal tells whether w writes to a terminal.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// report says that done of total is done; a total of 0 is not known. It may be
// called as often as work goes on: most calls cost a look at the clock.
func (m *meter) report(done, total int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	if m.began.IsZero() {
		m.began, m.shown, m.first = now, now, done
	}
	m.done, m.total = done, total
	every := plainEvery
	if m.terminal {
		every = terminalEvery
	}
	if now.Sub(m.shown) < every {
		return
	}
	m.shown = now
	if m.terminal {
		fmt.Fprintf(m.out, "\r%s"+clearLine, m.line(now))
	} else {
		fmt.Fprintln(m.out, m.line(now))
	}
}

// end clears the line of a terminal, so that what is written next begins one.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.terminal && !m.began.IsZero() {
		fmt.Fprint(m.out, "\r"+clearLine)
	}
}

// line says where the work is: "copying: 1.2 GiB of 2.0 GiB (60%), 105.0 MiB/s, 8s left".
func (m *meter) line(now time.Time) string {
	var b strings.Builder
	done := m.unit.text(float64(m.done), "")
	if m.total > 0 {
		if m.unit != inBytes {
			done = fmt.Sprint(m.done)
		}
		done += fmt.Sprintf(" of %s (%d%%)", m.unit.text(float64(m.total), ""), int(100*float64(m.done)/float64(m.total)))
	}
	fmt.Fprintf(&b, "%s: %s", m.what, done)
	took := now.Sub(m.began).Seconds()
	if m.done <= m.first || took <= 0 {
		return b.String()
	}
	rate := float64(m.done-m.first) / took
	fmt.Fprintf(&b, ", %s", m.unit.text(rate, "/s"))
	if left := float64(m.total - m.done); left > 0 {
		fmt.Fprintf(&b, ", %v left", time.Duration(left/rate*float64(time.Second)).Round(time.Second))
	}
	return b.String()
}

// text writes n of u, as "1.5 GiB" or "1200 mutations", or what stands for so
// much in a time: "1.5 GiB/s", "1200 mutations/s".
func (u unit) text(n float64, per string) string {
	if u != inBytes {
		return fmt.Sprintf("%.0f %s%s", n, u, per)
	}
	for _, size := range []struct {
		bytes float64
		name  string
	}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= size.bytes {
			return fmt.Sprintf("%.1f %s%s", n/size.bytes, size.name, per)
		}
	}
	return fmt.Sprintf("%.0f bytes%s", n, per)
}

// steps is the progress of work in several steps, each with a meter.
type steps struct {
	out   io.Writer
	in    unit
	meter *meter // of the present step, or nil
}

func newSteps(out io.Writer, in unit) *steps { return &steps{out: out, in: in} }

// report is meter.report for a step; steps follow one another.
func (s *steps) report(step string, done, total int64) {
	if s.meter == nil || s.meter.what != step {
		s.end()
		s.meter = newMeter(s.out, step, s.in)
	}
	s.meter.report(done, total)
}

// end ends the present step, if there is one.
func (s *steps) end() {
	if s.meter != nil {
		s.meter.end()
	}
	s.meter = nil
}
