package backup_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/backup"
	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store"
)

func open(t *testing.T, path string) *store.Bolt {
	t.Helper()
	s, err := store.OpenBolt(path, store.BoltOptions{FoldBatches: 7})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// fill pushes batches of notes for some users.
func fill(t *testing.T, s mutlog.Store, batches int) {
	t.Helper()
	log := mutlog.New(s, mutlog.DefaultLimits)
	w := mutlogtest.Writer{Rand: rand.New(rand.NewPCG(1, uint64(batches))), Resources: 50, Pad: 200}
	for i := range batches {
		user := mutlog.User(fmt.Sprint("user-", i%3))
		head, err := log.Head(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := log.Push(t.Context(), user, mutlog.Push{Base: head, Mutations: w.Batch(10), Client: "phone"}); err != nil {
			t.Fatal(err)
		}
	}
}

// history returns all mutations of all users as they were accepted.
func history(t *testing.T, s mutlog.Store) map[mutlog.User][]mutlog.Mutation {
	t.Helper()
	log, all := mutlog.New(s, mutlog.DefaultLimits), map[mutlog.User][]mutlog.Mutation{}
	err := s.Users(t.Context(), func(user mutlog.User) error {
		all[user], _ = mutlogtest.Pull(t, log, user, mutlog.Query{Since: mutlog.Beginning, History: true})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// files fails the test if there are others than names in dir.
func files(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Errorf("files (- want, + got)\n%s", diff)
	}
}

// A backup holds what the store held, says so, and is for its owner only.
func TestMake(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "tidemark.db"))
	fill(t, s, 40)
	want := history(t, s)
	steps := map[string]int64{}
	path := filepath.Join(dir, "a.backup")
	m, err := backup.Make(t.Context(), s, path, backup.Options{Progress: func(step string, done, total int64) {
		if done > total || done < steps[step] {
			t.Errorf("%s went from %d to %d of %d", step, steps[step], done, total)
		}
		steps[step] = done
	}})
	if err != nil {
		t.Fatal(err)
	}
	if m.Users != 3 || m.Batches != 40 || len(steps) != 4 {
		t.Errorf("the manifest is %+v, the steps were %v", m, steps)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the mode is %v, %v", info.Mode(), err)
	}
	files(t, dir, "a.backup", "tidemark.db")
	verified, err := backup.Verify(path)
	if err != nil || cmp.Diff(m, verified) != "" {
		t.Errorf("it verifies as %+v, %v", verified, err)
	}
	copied, err := store.OpenBolt(path, store.BoltOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	if diff := cmp.Diff(want, history(t, copied)); diff != "" {
		t.Errorf("(- store, + backup)\n%s", diff)
	}
	mutlogtest.CheckSound(t, copied)
	if _, err := backup.Make(t.Context(), s, path, backup.Options{}); !errors.Is(err, backup.ErrExists) {
		t.Errorf("a file was replaced by a backup: %v", err)
	}
}

// What is interrupted, or fails, leaves nothing under the name of the backup,
// and what a crash has left is in nobody's way.
func TestMakeInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "tidemark.db"))
	fill(t, s, 40)
	path := filepath.Join(dir, "a.backup")
	for _, at := range []string{"copying", "compacting", "verifying", "summing up"} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := backup.Make(ctx, s, path, backup.Options{Progress: func(step string, _, _ int64) {
			if step == at {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", at, err)
		}
		files(t, dir, "tidemark.db")
	}
	for _, left := range []string{"copy", "part"} {
		if err := errors.Join(os.MkdirAll(path+".tmp", 0o700), os.WriteFile(filepath.Join(path+".tmp", left), []byte("half"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := backup.Make(t.Context(), s, path, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	files(t, dir, "a.backup", "tidemark.db")
}

// A store that breaks a rule is no backup.
func TestMakeRefusesDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "tidemark.db"))
	fill(t, s, 40)
	path := filepath.Join(dir, "a.backup")
	_, err := backup.Make(t.Context(), s, path, backup.Options{
		Finish: func(ctx context.Context, copied, part string, made time.Time, o backup.Options) (*backup.Manifest, error) {
			damage(t, copied)
			return backup.Finish(ctx, copied, part, made, o)
		}})
	if !errors.Is(err, store.ErrDamaged) && !errors.Is(err, mutlog.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	files(t, dir, "tidemark.db")
}

// damage changes a letter of the data of a mutation.
func damage(t *testing.T, path string) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(content, []byte(`"pad":"`))
	content[i+2] ^= 1
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreRefuses: what is no complete backup, or of a newer version, is not
// restored, and the store that is there stays.
func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, good := filepath.Join(dir, "tidemark.db"), filepath.Join(dir, "good.backup")
	s := open(t, path)
	fill(t, s, 40)
	m, err := backup.Make(t.Context(), s, good, backup.Options{})
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what, file string, want error) {
		t.Helper()
		if _, err := backup.Restore(t.Context(), file, path, time.Now(), nil); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	refused("a store in use", good, store.ErrInUse)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(dir, "bad.backup")
	try := func(what string, content []byte, want error) {
		t.Helper()
		if err := os.WriteFile(bad, content, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(what, bad, want)
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 4095, 4096, len(content) / 2, len(content) - 4096, len(content) - 1} {
		try(fmt.Sprintf("%d bytes of %d", n, len(content)), content[:n], backup.ErrNoBackup)
	}
	for range 20 {
		flipped, at := bytes.Clone(content), rnd.IntN(int(m.Bytes))
		flipped[at] ^= 1 << rnd.IntN(8)
		try(fmt.Sprintf("a bit at %d", at), flipped, backup.ErrNoBackup)
	}
	newer := *m
	newer.Version++
	line, _ := json.Marshal(newer)
	try("a newer version", append(bytes.Clone(content[:m.Bytes]), fmt.Appendf(nil, "%-4095s\n", line)...), store.ErrNewer)
	try("a plain store", before, backup.ErrNoBackup)
	refused("no file", filepath.Join(dir, "none"), os.ErrNotExist)
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the store was changed: %v", err)
	}
	files(t, dir, "bad.backup", "good.backup", "tidemark.db")
}

// A gap of the store that is replaced stays one, although the backup is from
// before it and the clock was ahead when it was recorded (rule 17).
func TestRestoreAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, file := filepath.Join(dir, "tidemark.db"), filepath.Join(dir, "early.backup")
	s := open(t, path)
	fill(t, s, 3)
	if _, err := backup.Make(t.Context(), s, file, backup.Options{}); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	seen := mutlog.Timestamp(now.Add(time.Hour).UnixMilli())
	if err := errors.Join(s.Fence(t.Context(), seen), s.Close()); err != nil {
		t.Fatal(err)
	}
	restored, err := backup.Restore(t.Context(), file, path, now, nil)
	if err != nil || restored.Fence != seen {
		t.Fatalf("%+v, %v; the gap should end with %d", restored, err, seen)
	}
	_, err = mutlog.New(open(t, path), mutlog.DefaultLimits).Pull(t.Context(), "user-0", mutlog.Query{Since: seen})
	if refusal := (*mutlog.OutOfSyncError)(nil); !errors.As(err, &refusal) || refusal.Reason != mutlog.CursorAhead {
		t.Errorf("a device that has seen %d: %v", seen, err)
	}
}

// A schedule makes a backup when one is due, keeps as many as it should of its
// own store, and touches no other file.
func TestSchedule(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, filepath.Join(t.TempDir(), "tidemark.db"))
	fill(t, s, 10)
	others := []string{"notes.txt", "tidemark-of-mine.backup"}
	for _, name := range others {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "tidemark-20200101T000000Z.backup.tmp"), 0o700); err != nil { // a crash
		t.Fatal(err)
	}
	schedule := &backup.Schedule{Store: s, Dir: dir, Every: 1100 * time.Millisecond, Keep: 1, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { schedule.Run(ctx); close(ended) }()
	made := map[string]bool{}
	for deadline := time.Now().Add(30 * time.Second); len(made) < 3; time.Sleep(10 * time.Millisecond) {
		found, _ := filepath.Glob(filepath.Join(dir, "tidemark-2*.backup"))
		for _, path := range found {
			made[path] = true
		}
		if time.Now().After(deadline) {
			t.Fatalf("only %d backups were made", len(made))
		}
	}
	cancel()
	<-ended
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	count := 0
	for _, path := range left {
		if made[path] {
			count++
		}
	}
	if count < 1 || count > 2 || len(left) != count+len(others) { // 2: the context ended before the oldest was removed
		t.Errorf("of %d backups %d are left: %s", len(made), count, strings.Join(left, " "))
	}
	status := schedule.Status()
	if status.Bytes == 0 || time.Since(status.Made) > time.Minute || status.Failures != 0 {
		t.Errorf("its status is %+v", status)
	}
	again := &backup.Schedule{Store: s, Dir: dir, Every: time.Hour, Keep: 2, Logger: schedule.Logger}
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	again.Run(ctx)
	if now, _ := filepath.Glob(filepath.Join(dir, "*")); len(now) != len(left) {
		t.Errorf("a restart made a backup that was not due: %s", strings.Join(now, " "))
	}
}
