package main

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// goal is one of the figures that tidemark is to reach.
type goal struct {
	what   string
	label  string // what, in the width that the plot has for it
	of     string // a trial
	to     string // the trial that it is divided by, or "" for an absolute figure
	value  func(figure) float64
	target float64
	atMost bool
	unit   string
}

var goals = []goal{
	{what: "durable pushes, 64 connections × 10 mutations, chained cursors, 10,000 users: against the floor", label: "pushes of 10 / floor", of: "tidemark/10", to: "floor/10", value: rate, target: 0.50},
	{what: "the same against PocketBase's batch create", label: "pushes of 10 / PocketBase", of: "tidemark/10", to: "pocketbase/10", value: rate, target: 12},
	{what: "the same with batches of 1: against the floor", label: "pushes of 1 / floor", of: "tidemark/1", to: "floor/1", value: rate, target: 0.35},
	{what: "the same with batches of 100: against the floor", label: "pushes of 100 / floor", of: "tidemark/100", to: "floor/100", value: rate, target: 0.60},
	{what: "one connection: median latency of a push against a bare 4 KiB write + fdatasync", label: "latency of a lone push / 4 KiB write", of: "tidemark/lone", to: "disk/4k", value: median50, target: 2.5, atMost: true},
	{what: "`metadataOnly` polls against an echo handler that answers a constant of the same size", label: "polls / constant", of: "tidemark/poll", to: "echo/poll", value: rate, target: 0.85},
	{what: "a pull of 1,000 changes against a handler that writes the same bytes from memory", label: "pulls of 1,000 / constant", of: "tidemark/pull", to: "file/pull", value: rate, target: 0.60},
	{what: "pushes into a store of 1,000,000 users and 10,000,000 mutations against an empty one", label: "pushes, large store / empty", of: "big/10", to: "empty/10", value: rate, target: 0.70},
	{what: "polls there against an empty one", label: "polls, large store / empty", of: "big/poll", to: "empty/poll", value: rate, target: 0.90},
	{what: "start of the server on that store until the first answer", label: "start on the large store", of: "big/start", value: other, target: 1, atMost: true, unit: " s"},
	{what: "bytes on disk there against bytes of mutation JSON accepted", label: "bytes on disk / JSON", of: "big/size", value: other, target: 2.0, atMost: true},
	{what: "accepted pushes while as many again are refused with 409: against without those", label: "pushes beside refused ones / without", of: "tidemark/10 stale", to: "tidemark/10", value: rate, target: 0.80},
	{what: "a snapshot of 100,000 resources: first byte within", label: "first byte of a snapshot", of: "tidemark/snapshot", value: other, target: 50, atMost: true, unit: " ms"},
}

func rate(f figure) float64     { return f.perSecond }
func median50(f figure) float64 { return f.p50 }
func other(f figure) float64    { return f.other }

// reached returns the figure of each round, sorted; none if a trial is missing.
func (b *bench) reached(g goal) []float64 {
	of, to := b.figures[g.of], b.figures[g.to]
	if g.of == "big/size" && b.big.ready {
		return []float64{float64(b.big.DiskBytes) / float64(b.big.JSONBytes)}
	}
	var values []float64
	for i, f := range of {
		switch {
		case g.to == "":
			values = append(values, g.value(f))
		case i < len(to):
			values = append(values, g.value(f)/g.value(to[i]))
		}
	}
	slices.Sort(values)
	return values
}

// met tells how far the target is reached: 1 is just so, more is better.
func (g goal) met(value float64) float64 {
	if g.atMost {
		return g.target / value
	}
	return value / g.target
}

// median returns the middle of sorted values.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// markdown returns the tables of this run.
func (b *bench) markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "Rounds: %d. Length of each measurement: %v. Machine: %s.\n\n", b.rounds, b.length, machine())
	if b.scale != fullScale || b.big.ready && b.big.Users != fullScale.bigUsers {
		s.WriteString("**This run had less data than the targets name.**\n\n")
	}
	s.WriteString("| what | target | reached | lowest – highest | |\n|---|---|---|---|---|\n")
	for _, g := range goals {
		values := b.reached(g)
		if len(values) == 0 {
			fmt.Fprintf(&s, "| %s | %s | not measured | | |\n", g.what, g.bound())
			continue
		}
		verdict := "reached"
		if g.met(median(values)) < 1 {
			verdict = "**missed**"
		}
		fmt.Fprintf(&s, "| %s | %s | %s%s | %s – %s | %s |\n", g.what, g.bound(), short(median(values)), g.unit,
			short(values[0]), short(values[len(values)-1]), verdict)
	}
	s.WriteString("\n| trial | per second | lowest – highest | p50 ms | p99 ms | CPU of the subject, µs each |\n|---|--:|--:|--:|--:|--:|\n")
	for _, t := range trials {
		figures := b.figures[t.name]
		if len(figures) == 0 || figures[0].perSecond == 0 {
			continue
		}
		column := func(value func(figure) float64) []float64 {
			var values []float64
			for _, f := range figures {
				values = append(values, value(f))
			}
			slices.Sort(values)
			return values
		}
		rates := column(rate)
		fmt.Fprintf(&s, "| %s | %s | %s – %s | %s | %s | %s |\n", t.what, short(median(rates)),
			short(rates[0]), short(rates[len(rates)-1]), short(median(column(median50))),
			short(median(column(func(f figure) float64 { return f.p99 }))),
			short(median(column(func(f figure) float64 { return float64(f.cpu.Microseconds()) }))))
	}
	if b.big.ready {
		fmt.Fprintf(&s, "\nThe large store has %s users and %s mutations: %.2f GB of JSON, %.2f GB on disk. It was made over HTTP in %.0f s.\n",
			short(float64(b.big.Users)), short(float64(b.big.Mutations)), float64(b.big.JSONBytes)/1e9, float64(b.big.DiskBytes)/1e9, b.big.Seconds)
	}
	return s.String()
}

func (g goal) bound() string {
	word := "≥"
	if g.atMost {
		word = "≤"
	}
	return word + " " + strconv.FormatFloat(g.target, 'f', -1, 64) + g.unit
}

// short writes a figure with three digits or as a whole number.
func short(v float64) string {
	switch {
	case v == 0:
		return "–"
	case v >= 1000:
		s := strconv.Itoa(int(math.Round(v)))
		for i := len(s) - 3; i > 0; i -= 3 {
			s = s[:i] + "," + s[i:]
		}
		return s
	}
	return strconv.FormatFloat(v, 'f', max(0, 2-int(math.Floor(math.Log10(v)))), 64)
}

// machine describes what it ran on by what matters for it.
func machine() string {
	memory := ""
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kB int
		if _, err := fmt.Sscanf(string(info), "MemTotal: %d kB", &kB); err == nil {
			memory = fmt.Sprintf(", %d GB of memory", (kB+1<<19)>>20)
		}
	}
	return fmt.Sprintf("%d cores%s, %s, %s", runtime.NumCPU(), memory, runtime.GOOS, runtime.Version())
}

// The generated part of performance.md stands between these.
const (
	beginMark = "<!-- written by go run ./bench/compare: begin -->\n"
	endMark   = "<!-- written by go run ./bench/compare: end -->\n"
)

// writeDocs puts the tables into performance.md and draws the plot.
func (b *bench) writeDocs(dir string) error {
	file := filepath.Join(dir, "performance.md")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(text), beginMark)
	_, after, ends := strings.Cut(rest, endMark)
	if !begins || !ends {
		return fmt.Errorf("%s has no place between %q and %q", file, beginMark, endMark)
	}
	plot := "\n![What tidemark reaches](performance.svg)\n\n"
	if err := os.WriteFile(file, []byte(before+beginMark+plot+b.markdown()+"\n"+endMark+after), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "performance.svg"), []byte(b.svg()), 0o644)
}
