package faults_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"tidemark/faults/disk"
	"tidemark/mutlog"
	"tidemark/store"
)

// trace is what a server did to its file, commit by commit.
type trace struct {
	image   []byte   // the file before
	users   []string // that have logs
	commits []commit
}

// commit is what the file saw between two answers: the operations, and the heads
// of the logs before and after.
type commit struct {
	ops           []disk.Op
	before, after map[string]int64
}

// record lets a server write commits of all kinds to a lossy disk.
func record(t testing.TB, rnd *rand.Rand, fold int) *trace {
	t.Helper()
	d := newDisk(t)
	path := filepath.Join(d.Dir, "tidemark.db")
	s := start(t, path, options{})
	s.stop()
	tr := &trace{image: d.Files()["tidemark.db"]}
	var mu sync.Mutex
	var ops []disk.Op
	d.SetHook(func(op disk.Op) error {
		mu.Lock()
		defer mu.Unlock()
		ops = append(ops, op)
		return nil
	})
	f := newFleet(t, 6, 6)
	heads := map[string]int64{}
	for i := range f.users {
		heads[f.user(i)] = beginning
	}
	took := func(after map[string]int64) {
		mu.Lock()
		defer mu.Unlock()
		tr.commits = append(tr.commits, commit{ops, maps.Clone(heads), maps.Clone(after)})
		ops, heads = nil, after
	}
	s = start(t, path, options{fold: fold})
	took(maps.Clone(heads)) // it takes away the mark of the shutdown
	push := func(device int) {
		after := maps.Clone(heads)
		b := f.newBatch(rnd, device, heads[f.user(device)])
		if status, _ := f.push(s, b); status != 200 {
			t.Fatalf("a push is answered with %d", status)
		}
		after[b.user] = b.head
		took(after)
	}
	for i := range 34 { // the first log settles its index
		push(0)
		if i%4 == 0 {
			push(1 + i%3)
		}
	}
	f.large = 6000
	for i := range 6 { // the file grows, and records have pages of their own
		push(i)
	}
	s.stop()
	took(maps.Clone(heads)) // it leaves the mark
	tr.users = slices.Collect(maps.Keys(heads))
	return tr
}

// crashState is a file as a crash may leave it.
type crashState struct {
	commit int
	ops    []disk.Op // of the commit that are in it
	whole  bool      // the commit is in it for certain
	goOn   bool      // try whether the store can be written, too
}

// crashFile is a file that goes from one crash state to another of the same
// commit, and back.
type crashFile struct {
	f     *os.File
	path  string
	base  []byte
	users []string
}

// check opens a state and verifies that it is sound and has the heads of before
// or after its commit.
func (c *crashFile) check(state crashState, cm commit) error {
	defer c.undo(state.ops)
	for _, op := range state.ops {
		if err := c.apply(op); err != nil {
			return err
		}
	}
	s, err := store.OpenBolt(c.path, store.BoltOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer s.Close()
	var problems []string
	if err := mutlog.Check(context.Background(), s, func(p string) { problems = append(problems, p) }); err != nil {
		return err
	}
	if problems != nil {
		return fmt.Errorf("%d problems: %s", len(problems), problems[0])
	}
	heads := map[string]int64{}
	log := mutlog.New(s, mutlog.DefaultLimits)
	for _, user := range c.users {
		head, err := log.Head(context.Background(), mutlog.User(user))
		if err != nil {
			return err
		}
		heads[user] = int64(head)
	}
	if maps.Equal(heads, cm.after) || !state.whole && maps.Equal(heads, cm.before) {
		if state.goOn {
			return c.goOn(state.ops, heads)
		}
		return nil
	}
	return fmt.Errorf("heads %v are neither those before, %v, nor after, %v (which is certain: %t)", heads, cm.before, cm.after, state.whole)
}

// goOn pushes to a copy of a state, and verifies that.
func (c *crashFile) goOn(ops []disk.Op, heads map[string]int64) error {
	f, err := os.Create(c.path + ".copy")
	if err != nil {
		return err
	}
	defer f.Close()
	copied := &crashFile{f, f.Name(), c.base, c.users}
	if err := copied.reset(); err != nil {
		return err
	}
	for _, op := range ops {
		if err := copied.apply(op); err != nil {
			return err
		}
	}
	s, err := store.OpenBolt(copied.path, store.BoltOptions{})
	if err != nil {
		return err
	}
	defer s.Close()
	log := mutlog.New(s, mutlog.DefaultLimits)
	for user, head := range heads {
		p := mutlog.Push{Base: mutlog.Timestamp(head), Mutations: []mutlog.Mutation{
			{Type: mutlog.Create, Resource: "NOTE", ResourceID: "behind", Data: []byte(`{"a":1}`)}}}
		if _, err := log.Push(context.Background(), mutlog.User(user), p); err != nil {
			return fmt.Errorf("a push after the crash: %w", err)
		}
	}
	var problem error
	err = mutlog.Check(context.Background(), s, func(p string) { problem = errors.New("after further pushes: " + p) })
	return errors.Join(err, problem)
}

func (c *crashFile) apply(op disk.Op) error {
	if op.Kind == disk.Truncate {
		return c.f.Truncate(op.Off)
	}
	_, err := c.f.WriteAt(op.Data, op.Off)
	return err
}

// undo takes ops back.
func (c *crashFile) undo(ops []disk.Op) {
	c.f.Truncate(int64(len(c.base)))
	for _, op := range ops {
		if op.Kind == disk.Write && op.Off < int64(len(c.base)) {
			end := min(op.Off+int64(len(op.Data)), int64(len(c.base)))
			c.f.WriteAt(c.base[op.Off:end], op.Off)
		}
	}
}

// epochs splits the operations of a commit at its syncs.
func (cm *commit) epochs() (epochs [][]disk.Op) {
	var epoch []disk.Op
	for _, op := range cm.ops {
		if op.Kind == disk.Sync {
			epochs = append(epochs, epoch)
			epoch = nil
		} else if op.Kind == disk.Write || op.Kind == disk.Truncate {
			epoch = append(epoch, op)
		}
	}
	return append(epochs, epoch)
}

// checkAll opens all states that generate yields for a commit.
func (tr *trace) checkAll(t testing.TB, generate func(n int, cm *commit, yield func(ops []disk.Op, whole bool))) (states int64) {
	var done atomic.Int64
	var next atomic.Int64
	var wg sync.WaitGroup
	dir := scratch(t)
	for w := range 2 {
		wg.Go(func() {
			path := filepath.Join(dir, fmt.Sprintf("%d.db", w))
			f, err := os.Create(path)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			image := slices.Clone(tr.image)
			at := 0
			for i := int(next.Add(1)) - 1; i < len(tr.commits); i = int(next.Add(1)) - 1 {
				for ; at < i; at++ {
					for _, op := range tr.commits[at].ops {
						image = op.Apply(image)
					}
				}
				c := &crashFile{f, path, image, tr.users}
				if err := c.reset(); err != nil {
					t.Error(err)
					return
				}
				cm := tr.commits[i]
				generate(i, &cm, func(ops []disk.Op, whole bool) {
					if t.Failed() {
						return
					}
					goOn := done.Load()%50 == 0
					if err := c.check(crashState{i, ops, whole, goOn}, cm); err != nil {
						t.Errorf("commit %d with %d operations of %d: %v", i, len(ops), len(cm.ops), err)
					}
					done.Add(1)
				})
			}
		})
	}
	wg.Wait()
	return done.Load()
}

// reset writes the base of the states, but for its zeros.
func (c *crashFile) reset() error {
	if err := c.f.Truncate(0); err != nil {
		return err
	}
	if err := c.f.Truncate(int64(len(c.base))); err != nil {
		return err
	}
	var zeros [4096]byte
	for off := 0; off < len(c.base); off += len(zeros) {
		page := c.base[off:min(off+len(zeros), len(c.base))]
		if string(page) != string(zeros[:len(page)]) {
			if _, err := c.f.WriteAt(page, int64(off)); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestF4CrashStates opens the store in all states that a crash can leave between
// two syncs, if writes are whole and happen in order, or but for one.
func TestF4CrashStates(t *testing.T) {
	rnd := newRandom(t)
	var n, commits int64
	for _, fold := range folds {
		tr := record(t, rnd, fold)
		n += tr.prefixes(t)
		commits += int64(len(tr.commits))
	}
	if n < 900 {
		t.Errorf("only %d states", n)
	}
	counts(t, "%s crash states of %d commits, every prefix of the writes between two syncs and every one missing, all sound", thousands(n), commits)
}

func (tr *trace) prefixes(t testing.TB) int64 {
	return tr.checkAll(t, func(_ int, cm *commit, yield func([]disk.Op, bool)) {
		var certain []disk.Op
		for _, epoch := range cm.epochs() {
			for i := range epoch {
				yield(append(slices.Clip(certain), epoch[:i]...), false)
				if i < len(epoch)-1 {
					yield(slices.Delete(append(slices.Clip(certain), epoch...), len(certain)+i, len(certain)+i+1), false)
				}
			}
			certain = append(certain, epoch...)
		}
		yield(certain, true)
	})
}

// TestF5TornPages opens the store in random states that a crash can leave if a
// disk writes sectors in any order: pages of data and of meta are torn.
func TestF5TornPages(t *testing.T) {
	rnd := newRandom(t)
	var n int64
	commits := 0
	for _, fold := range folds {
		tr := record(t, rnd, fold)
		n += tr.torn(t, rnd.Uint64(), size(50_000, 1_000_000)/len(folds))
		commits += len(tr.commits)
	}
	counts(t, "%s random crash states of %d commits in sectors of %d bytes, all sound with the heads of before or after", thousands(n), commits, disk.Sector)
}

func (tr *trace) torn(t testing.TB, seed uint64, states int) int64 {
	epochs := 0
	for _, cm := range tr.commits {
		epochs += len(cm.epochs())
	}
	each := states/epochs + 1
	return tr.checkAll(t, func(i int, cm *commit, yield func([]disk.Op, bool)) {
		rnd := rand.New(rand.NewPCG(seed, uint64(i)))
		var certain []disk.Op
		for _, epoch := range cm.epochs() {
			for range each {
				yield(append(slices.Clip(certain), tear(epoch, rnd)...), false)
			}
			certain = append(certain, epoch...)
		}
	})
}

// tear returns a random part of ops, in sectors.
func tear(ops []disk.Op, rnd *rand.Rand) (part []disk.Op) {
	keep := rnd.Float64()
	for _, op := range ops {
		if op.Kind == disk.Truncate {
			if rnd.IntN(2) == 0 {
				part = append(part, op)
			}
			continue
		}
		for _, sector := range op.Sectors() {
			if rnd.Float64() < keep {
				part = append(part, sector)
			}
		}
	}
	return part
}
