package main_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// TestBench puts a little load of every kind on a real server: every answer is as it should be, and the report
// adds up.
func TestBench(t *testing.T) {
	dir := t.TempDir()
	server := serve(t, dir, "--store", "bench.db")
	args := []string{"bench", "--url", "http://" + server.addr, "--users", "20", "--connections", "4", "--requests", "500",
		"--pulls", "10", "--polls", "10", "--stale", "10", "--retries", "10"}

	var stdout, stderr bytes.Buffer
	bench := command(t, dir, append(args, "--json")...)
	bench.Stdout, bench.Stderr = &stdout, &stderr
	if err := bench.Run(); err != nil {
		t.Fatalf("bench: %v\n%s%s", err, stdout.String(), stderr.String())
	}
	var report struct {
		Requests, ErrorCount int
		Kinds                map[string]struct{ Requests int }
	}
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		t.Fatalf("%v\n%s", err, stdout.String())
	}
	sum := 0
	for _, kind := range report.Kinds {
		sum += kind.Requests
	}
	if report.Requests != 500 || sum != 500 || report.ErrorCount != 0 || len(report.Kinds) != 5 {
		t.Errorf("not 500 requests of 5 kinds without an error:\n%s", stdout.String())
	}

	text, err := command(t, dir, args...).Output()
	if err != nil || !strings.Contains(string(text), " push ") {
		t.Errorf("bench: %v\n%s", err, text)
	}
	server.stop(t)
	check(t, dir, "bench.db")
}

// TestBenchFails tells a planner that there is nothing to measure, in the exit code, too.
func TestBenchFails(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--url", "http://127.0.0.1:1"}, 1, "refused"},
		{[]string{"--url", "127.0.0.1:8080"}, 64, "--url"},
		{[]string{"--users", "10"}, 64, "--connections"},
		{[]string{"--polls", "60", "--pulls", "60"}, 64, "--polls"},
	} {
		cmd := command(t, t.TempDir(), append([]string{"bench"}, c.args...)...)
		out, _ := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != c.code || !strings.Contains(string(out), c.says) {
			t.Errorf("bench %v: exit code %d, want %d and %q\n%s", c.args, cmd.ProcessState.ExitCode(), c.code, c.says, out)
		}
	}
}
