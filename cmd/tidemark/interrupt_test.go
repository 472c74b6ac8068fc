package main_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store"
)

// makeStore makes a store on which long work takes a while.
func makeStore(t *testing.T, path string) {
	t.Helper()
	s, err := store.OpenBolt(path, store.BoltOptions{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	log := mutlog.New(s, mutlog.DefaultLimits)
	var wg sync.WaitGroup
	for u := range 6 {
		wg.Go(func() {
			head := mutlog.Beginning
			for range mutlogtest.Size(10, 25) {
				mutations := make([]mutlog.Mutation, 100)
				for i := range mutations {
					mutations[i] = mutlog.Mutation{Type: mutlog.Update, Resource: "NOTE", ResourceID: fmt.Sprint(i), Data: fmt.Appendf(nil, `{"text":"%0300d"}`, head)}
				}
				pushed, err := log.Push(t.Context(), mutlog.User(fmt.Sprint("user-", u)), mutlog.Push{Base: head, Mutations: mutations})
				if err != nil {
					t.Error(err)
					return
				}
				head = pushed.Head
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Long work that is interrupted, at any moment, says so in a line, leaves nothing half done, and can be done again.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	makeStore(t, filepath.Join(dir, "tidemark.db"))
	if code, out := tool(t, dir, "backup", "good.backup"); code != 0 {
		t.Fatal(out)
	}
	names := func() (all []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all = append(all, e.Name())
		}
		return all
	}
	want := strings.Join(names(), " ")
	for _, args := range [][]string{
		{"check", "--mode", "full"}, {"user", "export", "user-1", "new.ndjson"}, {"backup", "new.backup"}, {"compact"}, {"restore", "good.backup"},
	} {
		line, interrupted := strings.Join(args, " "), 0
		for delay := 15 * time.Millisecond; interrupted < 3; delay += delay/5 + time.Millisecond {
			cmd := command(t, dir, args...)
			var said strings.Builder
			cmd.Stderr = &said
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(delay)
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
			code := cmd.ProcessState.ExitCode()
			if code == 0 {
				break
			}
			if got := strings.Join(names(), " "); got != want && code == 130 {
				t.Errorf("%s, interrupted after %v, left %s", line, delay, got)
			}
			if code == 130 {
				interrupted++
				if strings.Count(said.String(), "\n") != 1 {
					t.Errorf("%s, interrupted after %v, says %q", line, delay, said.String())
				}
			} else if code != -1 { // before it minded signals
				t.Errorf("%s, interrupted after %v, exits with %d: %s", line, delay, code, said.String())
			}
		}
		t.Logf("%s: interrupted %d times", line, interrupted)
		if interrupted == 0 {
			t.Errorf("%s was never interrupted in the midst", line)
		}
		for _, name := range []string{"new.ndjson", "new.backup"} {
			os.Remove(filepath.Join(dir, name)) // of the last, that came to its end
		}
		if code, out := tool(t, dir, args...); code != 0 {
			t.Errorf("%s, run again, exits with %d: %s", line, code, out)
		}
		check(t, dir, "tidemark.db")
		for _, name := range []string{"new.ndjson", "new.backup"} {
			os.Remove(filepath.Join(dir, name))
		}
		kept, _ := filepath.Glob(filepath.Join(dir, "*.before-restore-*"))
		for _, name := range kept {
			os.Remove(name)
		}
	}
}
