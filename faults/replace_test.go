package faults_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"tidemark/mutlog"
	"tidemark/store"
)

// TestF18Replace kills the commands that put a store in the place of another, or
// cuts the power, at each step: there must be the one store or the other,
// complete, and what is left of the try must be in nobody's way.
func TestF18Replace(t *testing.T) {
	rnd := newRandom(t)
	d := newDisk(t)
	path, saved := filepath.Join(d.Dir, "tidemark.db"), filepath.Join(scratch(t), "saved.backup")
	f := newFleet(t, 3, 3)
	s := start(t, path, options{fold: 2})
	for i := range 9 {
		f.push(s, f.newBatch(rnd, i, beginning))
	}
	s.stop()
	if code, out := run(t, "backup", saved, "--store", path); code != 0 {
		t.Fatalf("tidemark backup exits with %d: %s", code, out)
	}
	old := logsIn(t, saved)
	s = start(t, path, options{fold: 2})
	f.push(s, f.newBatch(rnd, 3, int64(old["user-0"][len(old["user-0"])-1].Head())))
	s.stop()
	base, full := d.Files(), logsIn(t, path)
	if reflect.DeepEqual(old, full) {
		t.Fatal("nothing was pushed since the backup")
	}
	crashes, most := 0, 0
	for _, tool := range []struct {
		name   string
		args   []string
		images map[string][]byte
		before map[mutlog.User][]*mutlog.Batch // nil: no store
		after  map[mutlog.User][]*mutlog.Batch
	}{
		{"compact", []string{"compact", "--store", path}, base, full, full},
		{"restore", []string{"restore", saved, "--store", path}, base, full, old},
		{"restore to no store", []string{"restore", saved, "--store", path}, nil, nil, old},
	} {
		for _, how := range []struct{ after, cut bool }{{false, false}, {true, false}, {true, true}} {
			for step, hit := 0, true; hit; step += 1 + rnd.IntN(size(3, 1)) {
				d.Reset(tool.images)
				k := killAt(d, step, how.after)
				runUntil(t, k, tool.args...)
				if hit = k.hit(); !hit {
					break
				}
				images := d.Files()
				if how.cut {
					images = d.Cut(rnd)
				}
				d.Reset(images)
				crashes, most = crashes+1, max(most, step+1)
				what := []any{tool.name, "step", step, "after", how.after, "cut", how.cut, "left", slices.Sorted(maps.Keys(images))}
				if _, there := images["tidemark.db"]; !there {
					if tool.before != nil {
						t.Fatal(append(what, "there is no store any more")...)
					}
				} else {
					check(t, path)
					if found := logsIn(t, path); !reflect.DeepEqual(found, tool.before) && !reflect.DeepEqual(found, tool.after) {
						t.Fatal(append(what, "it is neither the one store nor the other")...)
					}
				}
				if code, out := run(t, tool.args...); code != 0 {
					t.Fatal(append(what, "the next try fails:", out)...)
				}
				if found := logsIn(t, path); !reflect.DeepEqual(found, tool.after) {
					t.Fatal(append(what, "the next try makes another store")...)
				}
				for name := range d.Files() {
					if strings.Contains(name, "/") {
						t.Fatal(append(what, "was left:", name)...)
					}
				}
			}
		}
	}
	if crashes < 30 {
		t.Errorf("only %d crashes: too few steps were met", crashes)
	}
	counts(t, "%d kills and power cuts at up to %d steps of compact and restore, the one store or the other each time", crashes, most)
}

// runUntil runs tidemark, and lets k know its process.
func runUntil(t *testing.T, k *killer, args ...string) {
	t.Helper()
	cmd := exec.Command(tidemark(t), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	k.pid <- cmd.Process.Pid
	if err := cmd.Wait(); err != nil && !k.hit() {
		t.Fatalf("tidemark %s: %v\n%s", strings.Join(args, " "), err, out.String())
	}
}

// logsIn returns the batches of all users in a store or backup.
func logsIn(t *testing.T, path string) map[mutlog.User][]*mutlog.Batch {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	s := openToRead(t, path)
	defer s.Close()
	logs := map[mutlog.User][]*mutlog.Batch{}
	if err := s.Users(t.Context(), func(user mutlog.User) error { logs[user] = batches(t, s, user); return nil }); err != nil {
		t.Fatal(err)
	}
	return logs
}

func openToRead(t *testing.T, path string) *store.Bolt {
	t.Helper()
	s, err := store.OpenBolt(path, store.BoltOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func batches(t *testing.T, s mutlog.Store, user mutlog.User) (all []*mutlog.Batch) {
	t.Helper()
	err := s.View(t.Context(), user, func(tx mutlog.Reader) (err error) {
		all, err = tx.Batches(mutlog.Beginning, 1<<30)
		for after := mutlog.Beginning; err == nil; {
			var more []*mutlog.Batch
			if n := len(all); n > 0 {
				after = all[n-1].Head()
			}
			if more, err = tx.Batches(after, 1<<30); len(more) == 0 {
				break
			}
			all = append(all, more...)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
