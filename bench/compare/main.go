// Command compare measures tidemark beside what it could be at best and what
// else there is, and says whether the figures that it is to reach are reached:
//
//	go run ./bench/compare                  all but the large store; about 15 minutes
//	go run ./bench/compare -big DIR         with the large store, made in DIR if it is not there
//	go run ./bench/compare -quick           proves in seconds that this works; its figures mean nothing
//	go run ./bench/compare -only '/10$'     some of the trials, see trials.go
//
// Everything runs on this machine and shares its cores: the subject, which is a
// process of its own, and the load. So a figure means something only beside
// another one of the same round, and what is compared takes turns within each
// round. A table is made of medians over the rounds.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	b := &bench{figures: map[string][]figure{}, scale: fullScale}
	flag.IntVar(&b.scale.bigUsers, "big-users", fullScale.bigUsers, "users of the large store, if it has to be made")
	flag.IntVar(&b.rounds, "rounds", 5, "how often everything is measured")
	flag.DurationVar(&b.length, "length", 5*time.Second, "how long one measurement takes, after a quarter of it to warm up")
	quick := flag.Bool("quick", false, "one short round with little data and without PocketBase, which takes minutes to build")
	only := flag.String("only", "", "a regular expression: run only the trials whose names it matches")
	without := flag.String("without", "", "a regular expression: leave out the trials whose names it matches")
	flag.StringVar(&b.bigDir, "big", "", "directory that has the large store, or will have it (3 GB); without it its rows are left out")
	flag.StringVar(&b.profiles, "profiles", "", "directory for a CPU profile of tidemark in each of its trials")
	docs := flag.String("docs", "", "directory whose performance.md and performance.svg get the results")
	dir := flag.String("dir", "", "directory for the other stores, on the disk that is to be measured; the default is a temporary one")
	flag.Parse()

	temp, err := os.MkdirTemp(*dir, "tidemark-compare-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	b.dir = temp
	if *quick {
		b.rounds, b.length, b.scale = 1, 300*time.Millisecond, quickScale
		b.bigDir = filepath.Join(temp, "big")
		*without = strings.Trim(*without+"|pocketbase", "|")
	}
	trials, err := selectTrials(*only, *without, b)
	if err != nil {
		return err
	}
	if err := b.build(ctx, trials); err != nil {
		return err
	}
	for round := range b.rounds {
		for _, t := range trials {
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, b.rounds, t.name)
			if err := t.run(ctx, b, t.name); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	fmt.Print(b.markdown())
	if *docs == "" {
		return nil
	}
	return b.writeDocs(*docs)
}

func selectTrials(only, without string, b *bench) (selected []trial, err error) {
	with, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	out, err := regexp.Compile(without)
	if err != nil {
		return nil, err
	}
	for _, t := range trials {
		isBig := strings.HasPrefix(t.name, "big/")
		if with.MatchString(t.name) && (without == "" || !out.MatchString(t.name)) && (!isBig || b.bigDir != "") {
			selected = append(selected, t)
		}
	}
	if len(selected) == 0 {
		return nil, fmt.Errorf("no trial is selected")
	}
	return selected, nil
}

// bench is one run of the comparison.
type bench struct {
	rounds   int
	length   time.Duration
	scale    scale
	dir      string // for binaries and stores; goes away
	bigDir   string
	profiles string
	figures  map[string][]figure // by trial, one for each round

	big     bigStore
	library bool // whether the store of libraryPath has been filled
}

// scale is how much data there is.
type scale struct {
	users     int // who push
	bigUsers  int // in the large store, each with bigMutations
	resources int // in the snapshot
}

var (
	fullScale  = scale{users: 10_000, bigUsers: 1_000_000, resources: 100_000}
	quickScale = scale{users: 1_000, bigUsers: 2_000, resources: 5_000}
)

// connections is how many there are where nothing else is said.
const connections = 64

// figure is what one trial measured.
type figure struct {
	perSecond float64
	p50, p99  float64       // milliseconds
	cpu       time.Duration // of the subject, per request; 0 if it is not known
	other     float64       // of trials that measure something else
}

// path returns where in the directory of this run something is.
func (b *bench) path(name string) string { return filepath.Join(b.dir, name) }

// build builds the subjects.
func (b *bench) build(ctx context.Context, trials []trial) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "tidemark").Output()
	if err != nil {
		return fmt.Errorf("go list: %w: this must run inside tidemark's module", err)
	}
	dir := strings.TrimSpace(string(root))
	builds := map[string][]string{"tidemark": {dir, "./cmd/tidemark"}, "subject": {dir, "./bench/subject"}}
	for _, t := range trials {
		if strings.HasPrefix(t.name, "pocketbase/") {
			builds["pocketbase"] = []string{filepath.Join(dir, "bench", "pocketbase"), "."}
		}
	}
	for name, what := range builds {
		cmd := exec.CommandContext(ctx, "go", "build", "-o", b.path(name), what[1])
		cmd.Dir = what[0]
		cmd.Stderr = os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("building %s: %w", name, err)
		}
	}
	return nil
}
