package history

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the first history, each further one has the next; 0 for a random one")
	countFlag = flag.Int("histories", 500, "how many histories are made")
	longFlag  = flag.Bool("long", false, "make 10,000 histories")
	binFlag   = flag.String("tidemark", "", "the program to judge, instead of one built from this tree")
)

const workers = 4

// TestHistories makes random histories of the real server, half of them with
// kills, and holds every one against the model and the invariants.
func TestHistories(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers")
	}
	n := *countFlag
	if *longFlag {
		n = 10_000
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(rand.Uint32())
	}
	start := time.Now()
	found, counts, err := judge(binaries(t), oneServer(memory(t)), seed, n, func([]violation) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	for seed, violations := range found {
		for _, v := range violations[:min(len(violations), 10)] {
			t.Errorf("seed %d: %s: %.5000s", seed, v.rule, v.text)
		}
		t.Errorf("%d violations; again: go test ./history -run TestHistories -histories 1 -seed %d", len(violations), seed)
	}
	t.Logf("%s; seeds %d to %d; %.0f s", counts, seed, seed+uint64(n)-1, time.Since(start).Seconds())
	counts.mustBeHard(t)
}

// String is the line that sums up a run.
func (c tally) String() string {
	return fmt.Sprintf("%d histories, %d of them with %d kills and %d restarts; %d checks of the store; %d users, %d operations: %d pulls, %d pushes "+
		"(%.1f%% retries; %d batches of %d mutations applied, %d replays, %d refusals, %d without an answer); "+
		"%d answers and %d requests of pushes cut, %d hung up",
		c.histories, c.killed, c.kills, c.restarts, c.checks, c.users, c.operations, c.pulls, c.pushes,
		100*float64(c.retries)/float64(max(c.pushes, 1)), c.applied, c.mutations, c.replayed, c.refused, c.unanswered,
		c.lostAnswers, c.lostRequests, c.hungUp)
}

// mustBeHard fails if the histories were too easy to prove anything.
func (c *tally) mustBeHard(t *testing.T) {
	t.Helper()
	switch {
	case c.retries*20 < c.pushes:
		t.Errorf("only %d of %d pushes are retries", c.retries, c.pushes)
	case c.histories >= 10 && (c.killed*3 < c.histories || c.lostAnswers < c.histories || c.replayed < c.histories || c.applied < 20*c.histories):
		t.Errorf("too little has happened: %s", c)
	}
}

// binaries returns the programs that are to be judged: the server as it is, and
// one with small limits, in which the stretches of a pull, the index and the
// folding of recent batches, which take megabytes, come into histories, too.
func binaries(t *testing.T, patches ...string) [2]string {
	if *binFlag != "" {
		return [2]string{*binFlag, *binFlag}
	}
	return [2]string{build(t, "-overlay", overlayOf(t, patches...)), build(t, "-overlay", overlayOf(t, append(patches, smallLimits)...))}
}

// judge makes histories of n seeds until enough says so, and returns what was
// found by seed.
func judge(binaries [2]string, how settings, seed uint64, n int, enough func([]violation) bool) (map[uint64][]violation, tally, error) {
	var (
		mu     sync.Mutex
		all    sync.WaitGroup
		next   atomic.Int64
		found  = map[uint64][]violation{}
		counts tally
		failed error
	)
	work := func() error {
		var benches [2]*bench
		for i, binary := range binaries {
			b, err := newBench(binary, how)
			if err != nil {
				return err
			}
			defer b.close()
			benches[i] = b
		}
		for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
			seed := seed + uint64(i)
			violations, c, err := benches[seed/2%2].run(seed)
			if err != nil {
				return fmt.Errorf("seed %d: %w", seed, err)
			}
			mu.Lock()
			counts.add(c)
			if len(violations) > 0 {
				found[seed] = violations
				if enough(violations) {
					next.Store(int64(n))
				}
			}
			mu.Unlock()
		}
		return nil
	}
	for range min(workers, n) {
		all.Go(func() {
			if err := work(); err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return found, counts, failed
}

// memory makes a directory in memory, where syncs cost nothing, if there is one:
// the kernel keeps what a killed process has written, synced or not, so that a
// disk would show no more here.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tidemark-history-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// buildFlags are how the server is built.
var buildFlags []string

// root is where the server's module is.
const root = "../.."

// build builds the server, with the flags of go build.
func build(t testing.TB, flags ...string) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "tidemark")
	args := slices.Concat([]string{"build"}, buildFlags, flags, []string{"-o", binary, "./cmd/tidemark"})
	if out, err := goCommand(t.Context(), args...).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return binary
}

// goCommand is the go command in the server's module.
func goCommand(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, "go", args...)
	c.Dir = root
	c.Env = append(os.Environ(), "GOFLAGS=", "PWD=")
	return c
}
