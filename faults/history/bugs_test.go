package history

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// bug is one mistake that is put into the server on purpose, to prove that it
// would be noticed: a patch in bugs, whose head says what it does.
type bug struct {
	name  string
	rules []string // a history must break one of these
	test  string   // or this test of the server's module must fail: package and name
	sync  bool     // or a push be acknowledged before it is synced
}

// bugs are the sixteen of the fault plan. Three are there twice: 08 for a race
// that a file refuses and for a serialization failure of PostgreSQL that becomes
// a 409, 15 for the filter by resource and for that by scope, and 16 for a
// tombstone that the index drops and for one that pruning drops without saying
// so.
var bugs = []bug{
	{name: "01-write-without-cas", rules: []string{"I3", "I9"}},
	{name: "02-head-of-second-transaction", rules: []string{"linear", "I11"}},
	{name: "03-stale-head", rules: []string{"I4"}},
	{name: "04-no-sync", sync: true},
	{name: "05-key-outside-transaction", rules: []string{"I5", "I6", "linear"}},
	{name: "06-key-without-user", rules: []string{"I5", "I6", "linear"}},
	{name: "07-retry-appends", rules: []string{"I5"}},
	{name: "08-race-refused", rules: []string{"linear"}},
	{name: "08-serialization-refused", test: "./store TestF35GivenUpAtEachStatement"},
	{name: "09-raw-clock", rules: []string{"I1", "I9", "I16", "linear"}},
	{name: "09-raw-clock", test: "./store TestF23Clock"},
	{name: "10-truncated-pull", rules: []string{"I11"}},
	{name: "11-told-before-commit", test: "./store TestConformance/bolt/Follow"},
	{name: "12-batch-in-two", rules: []string{"I7"}},
	{name: "13-since-included", rules: []string{"linear"}},
	{name: "14-fingerprint-ignored", rules: []string{"I9"}},
	{name: "15-filter-after-limit", rules: []string{"linear"}},
	{name: "15-scope-after-limit", test: "./server TestScopesAndCursor"},
	{name: "16-tombstone-dropped", rules: []string{"I11", "I16", "linear"}},
	{name: "16-horizon-not-moved", test: "./store TestRetention"},
}

// bugBudget is how many histories may be made to catch one bug, and how many
// the server without a bug must pass.
const bugBudget = 60

// TestSeededBugs proves that each bug is caught, and that nothing is caught
// where there is none.
func TestSeededBugs(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and starts many servers")
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(rand.Uint32())
	}
	t.Logf("seed %d", seed)
	caught := map[string]bool{}
	for _, b := range bugs {
		t.Run(b.name+strings.ReplaceAll(strings.TrimPrefix(b.test, "."), " ", "-"), func(t *testing.T) {
			start := time.Now()
			how, err := b.find(t, seed)
			if err != nil {
				t.Fatal(err)
			}
			caught[b.name] = true
			t.Logf("caught in %.1f s: %s", time.Since(start).Seconds(), how)
		})
	}
	patches, err := filepath.Glob("bugs/*.patch")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range patches {
		if name := strings.TrimSuffix(filepath.Base(p), ".patch"); name != smallLimits && !slices.ContainsFunc(bugs, func(b bug) bool { return b.name == name }) {
			t.Errorf("%s is not in the table of bugs", p)
		}
	}
	t.Run("none", func(t *testing.T) {
		both := binaries(t)
		found, counts, err := judge(both, oneServer(memory(t)), seed, bugBudget, func([]violation) bool { return true })
		if err != nil || len(found) > 0 {
			t.Errorf("a bug is found where none was put: %v %.3000v", err, found)
		}
		if err := unsynced(t, both[0]); err != nil {
			t.Error(err)
		}
		t.Logf("%d of %d bugs caught; without one, %s", len(caught), len(patches)-1, counts)
	})
}

// find looks for the bug and tells how it was caught; an error says that it was
// not.
func (b *bug) find(t *testing.T, seed uint64) (string, error) {
	if b.test != "" {
		pkg, name, _ := strings.Cut(b.test, " ")
		args := []string{"test", "-overlay", overlayOf(t, b.name), "-count=1", "-run", "^" + name + "$", pkg}
		if pkg == "./store" { // where tests with rapid are, which keeps what has failed
			args = append(args, "-rapid.nofailfile")
		}
		out, err := goCommand(t.Context(), args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "--- FAIL: "+name) {
			return "", fmt.Errorf("%s does not fail: %v\n%s", b.test, err, out)
		}
		return b.test, nil
	}
	if b.sync {
		if err := unsynced(t, build(t, "-overlay", overlayOf(t, b.name))); err != nil {
			return err.Error(), nil
		}
		return "", fmt.Errorf("every push was synced")
	}
	right := func(v violation) bool { return slices.Contains(b.rules, v.rule) }
	found, counts, err := judge(binaries(t, b.name), oneServer(memory(t)), seed, bugBudget, func(all []violation) bool { return slices.ContainsFunc(all, right) })
	if err != nil {
		return "", err
	}
	rules := map[string]int{}
	how := ""
	for _, violations := range found {
		for _, v := range violations {
			if rules[v.rule]++; right(v) && how == "" {
				how = fmt.Sprintf("%s: %.160s", v.rule, v.text)
			}
		}
	}
	if how == "" {
		return "", fmt.Errorf("not caught in %s, which broke %v", counts, rules)
	}
	return fmt.Sprintf("history %d, %v, %s", counts.histories, rules, how), nil
}
