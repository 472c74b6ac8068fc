package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"

	"tidemark/bench/load"
)

// Run puts load on a server, and prints what it measured.
func (c *benchCommand) Run(io streams) error {
	s, err := c.sync()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second signal ends the process at once

	if err := s.Try(ctx); err != nil {
		return err
	}
	p := newProgress(io.err)
	report := load.Run(ctx, load.Options{
		URL: c.URL, Duration: c.Duration, Requests: c.Requests, Progress: p.show, ProgressEvery: time.Second,
	}, s.Devices())
	p.end()
	if err := c.print(io.out, s, report); err != nil {
		return err
	}
	if report.ErrorCount > 0 || report.Requests == 0 {
		return fmt.Errorf("%d requests failed, %d were answered as they should be", report.ErrorCount, report.Requests)
	}
	return nil
}

// sync makes the load of the flags.
func (c *benchCommand) sync() (load.Sync, error) {
	s := load.Sync{
		URL: c.URL, Users: c.Users, Connections: c.Connections, Batch: c.Batch, MutationBytes: c.MutationBytes,
		Updates: c.Updates / 100, Deletes: c.Deletes / 100,
		Pulls: c.Pulls / 100, Polls: c.Polls / 100, Stale: c.Stale / 100, Retries: c.Retries / 100,
		UserPrefix: c.UserPrefix, Token: c.Token, Seed: rand.Uint64(),
	}
	switch {
	case c.Token != "" && c.UserPrefix == "":
		s.Users, s.Connections = 1, 1
	case c.UserPrefix == "":
		s.UserPrefix = fmt.Sprintf("bench-%08x-", rand.Uint32())
		s.Fresh = true
	}
	switch {
	case c.URL.Scheme != "http" && c.URL.Scheme != "https", c.URL.Host == "", c.URL.RawQuery != "":
		return s, usageError("--url must be http://host:port or https://host:port, perhaps with a path")
	case s.Connections < 1 || s.Users < s.Connections:
		return s, usageError("--connections must be at least 1, and --users at least as many")
	case c.Batch < 1:
		return s, usageError("--batch must be at least 1")
	case c.MutationBytes < 1 || c.Duration < 0 || c.Requests < 0:
		return s, usageError("--mutation-bytes, --duration and --requests must not be negative")
	case min(c.Updates, c.Deletes) < 0 || c.Updates+c.Deletes > 100:
		return s, usageError("--updates and --deletes are percent of the mutations")
	case min(c.Pulls, c.Polls, c.Stale, c.Retries) < 0 || c.Pulls+c.Polls+c.Stale+c.Retries > 100:
		return s, usageError("--pulls, --polls, --stale and --retries are percent of the requests")
	}
	return s, nil
}

// print prints the report for people or for programs.
func (c *benchCommand) print(w io.Writer, s load.Sync, r *load.Report) error {
	pushes := r.Kinds[load.Push.String()].PerSecond
	if c.JSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(struct {
			URL             string  `json:"url"`
			Users           int     `json:"users"`
			Connections     int     `json:"connections"`
			Batch           int     `json:"batch"`
			MutationBytes   int     `json:"mutationBytes"`
			Updates         float64 `json:"updatesPercent"`
			Deletes         float64 `json:"deletesPercent"`
			MutationsPerSec float64 `json:"mutationsPerSecond"`
			*load.Report
		}{c.URL.String(), s.Users, s.Connections, s.Batch, s.MutationBytes, c.Updates, c.Deletes, pushes * float64(s.Batch), r})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "%d connections, %d users, pushes of %d mutations of about %d bytes, %g%% UPDATE, %g%% DELETE\n",
		s.Connections, s.Users, s.Batch, s.MutationBytes, c.Updates, c.Deletes)
	fmt.Fprintf(w, "%.1f s, %.0f requests/s, %.0f mutations/s, %.1f MB/s sent, %.1f MB/s received\n\n",
		r.Seconds, r.PerSecond, pushes*float64(s.Batch), float64(r.SentBytes)/1e6/r.Seconds, float64(r.GotBytes)/1e6/r.Seconds)
	fmt.Fprintln(t, "\trequests\tper s\tms: p50\tp90\tp99\tp99.9\tmax\t")
	for _, kind := range slices.Sorted(maps.Keys(r.Kinds)) {
		f, l := r.Kinds[kind], r.Kinds[kind].Latency
		fmt.Fprintf(t, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\n",
			kind, f.Requests, f.PerSecond, l.P50, l.P90, l.P99, l.P999, l.Max)
	}
	err := t.Flush()
	for _, cause := range byCount(r.Errors) {
		fmt.Fprintf(w, "%d × %s\n", r.Errors[cause], cause)
	}
	return err
}

// byCount returns the causes of errors, the most frequent first.
func byCount(errors map[string]int64) []string {
	return slices.SortedFunc(maps.Keys(errors), func(a, b string) int {
		return cmp.Or(cmp.Compare(errors[b], errors[a]), cmp.Compare(a, b))
	})
}

// progress shows how a run goes: on a terminal in one line that is written over
// and over, else as a line each.
type progress struct {
	w        io.Writer
	terminal bool
	last     load.Report
}

func newProgress(w io.Writer) *progress { return &progress{w: w, terminal: isTerminal(w)} }

func (p *progress) show(r *load.Report) {
	rate := float64(r.Requests-p.last.Requests) / (r.Seconds - p.last.Seconds)
	p.last = *r
	line := fmt.Sprintf("%.0f s, %.0f requests/s, %d errors", r.Seconds, rate, r.ErrorCount)
	if p.terminal {
		fmt.Fprint(p.w, "\r"+line+clearLine)
	} else {
		fmt.Fprintln(p.w, line)
	}
}

// end removes the line from a terminal.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprint(p.w, "\r"+clearLine)
	}
}

// clearLine makes a terminal clear the line from the cursor on.
const clearLine = "\x1b[K"
