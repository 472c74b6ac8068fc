package faults_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"tidemark/client"
	"tidemark/mutlog"
)

// TestF41RestoreUnderLoad takes backups while devices push, loses what was
// pushed later, and restores one: it is a prefix of every log that holds all
// that was acknowledged before it was begun, every device that had seen more is
// told, no other is, all send again what was lost, and then all hold the same.
func TestF41RestoreUnderLoad(t *testing.T) {
	rnd := newRandom(t)
	var (
		dir, path string
		s         *server
		crew      []*keeper
	)
	cycles, told, level, sentAgain := size(3, 200), 0, 0, 0
	for cycle := range cycles {
		if cycle%20 == 0 { // a large log makes the comparison slow
			if s != nil {
				s.stop()
				check(t, path)
			}
			dir, crew = scratch(t), nil
			path = filepath.Join(dir, "tidemark.db")
			s = start(t, path, options{fold: 50})
			for i := range 9 {
				crew = append(crew, newKeeper(t, i, 3))
			}
		}
		for _, k := range crew {
			k.dial(s)
		}
		stop := work(crew, rnd)
		awaitPushes(t, crew, 20)
		before := heads(t, crew)
		file := filepath.Join(dir, fmt.Sprintf("%d.backup", cycle))
		if code, out := run(t, "backup", file, "--store", path); code != 0 {
			t.Fatalf("tidemark backup exits with %d: %s", code, out)
		}
		awaitPushes(t, crew, 20)
		stop()
		if cycle%2 == 0 {
			s.kill()
		} else {
			s.stop()
		}
		saved := prefixes(t, file, path, before)
		code, out := run(t, "restore", file, "--store", path)
		if code != 0 {
			t.Fatalf("tidemark restore exits with %d: %s", code, out)
		}
		s = start(t, path, options{fold: 50})
		for _, k := range crew {
			k.dial(s)
			ahead := k.cursor > saved[k.user]
			k.told = 0
			k.sync()
			if ahead != (k.told > 0) {
				t.Fatalf("cycle %d: a device of %s whose cursor is %d was told %d times that it is ahead; the backup ends with %d",
					cycle, k.user, k.cursor, k.told, saved[k.user])
			}
			if ahead {
				told++
			} else {
				level++
			}
		}
		for range 2 {
			for _, k := range crew {
				k.sync()
			}
		}
		converged(t, crew)
		for _, k := range crew {
			sentAgain, k.again = sentAgain+k.again, 0
		}
		left, _ := filepath.Glob(path + ".before-restore-*")
		for _, name := range append(left, file) {
			os.Remove(name)
		}
	}
	s.stop()
	check(t, path)
	if told == 0 || sentAgain == 0 {
		t.Errorf("%d devices were told and %d resources sent again: nothing was lost", told, sentAgain)
	}
	counts(t, "%d backups restored under %d devices, %d told that they were ahead, %d not, %d resources sent again",
		cycles, len(crew), told, level, sentAgain)
}

// keeper is a device that never gives up what it was told is safe: when the
// server has lost it, it sends it again.
type keeper struct {
	t      *testing.T
	name   string
	user   mutlog.User
	client *client.Client
	pushes atomic.Int64

	cursor mutlog.Timestamp
	rows   map[mutlog.Ref]held
	mine   map[mutlog.Ref]string // the data of what it made itself and nobody changes
	next   int
	told   int // how often that it is ahead
	again  int // how many resources were sent again
}

// held is a resource as a device holds it.
type held struct {
	data string
	at   mutlog.Timestamp
}

func newKeeper(t *testing.T, i, users int) *keeper {
	return &keeper{t: t, name: fmt.Sprintf("device-%d", i), user: mutlog.User(fmt.Sprintf("user-%d", i%users)),
		cursor: mutlog.Beginning, rows: map[mutlog.Ref]held{}, mine: map[mutlog.Ref]string{}}
}

func (k *keeper) dial(s *server) {
	c, err := client.New("http://"+s.addr, client.WithUser(k.user), client.WithClientID(k.name), client.WithHTTPClient(s.client))
	if err != nil {
		k.t.Fatal(err)
	}
	k.client = c
}

// work lets all devices push until stop is called.
func work(crew []*keeper, rnd *rand.Rand) (stop func()) {
	var wg sync.WaitGroup
	end := make(chan struct{})
	for _, k := range crew {
		k.pushes.Store(0)
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), 1))
		wg.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
					k.edit(rnd)
				}
			}
		})
	}
	stop = sync.OnceFunc(func() {
		close(end)
		wg.Wait()
	})
	crew[0].t.Cleanup(stop)
	return stop
}

// awaitPushes returns when each device has made n pushes more.
func awaitPushes(t *testing.T, crew []*keeper, n int64) {
	t.Helper()
	for _, k := range crew {
		want := k.pushes.Load() + n
		await(t, "pushes of "+k.name, func() bool { return k.pushes.Load() >= want })
	}
}

// edit makes a resource of its own, or changes one that all share.
func (k *keeper) edit(rnd *rand.Rand) {
	k.next++
	m := mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", ResourceID: fmt.Sprintf("%s.%d", k.name, k.next),
		Data: fmt.Appendf(nil, `{"by":%q,"n":%d,"text":"%0*d"}`, k.name, k.next, rnd.IntN(300), 1)}
	if rnd.IntN(4) == 0 {
		m.ResourceID = fmt.Sprint("shared-", rnd.IntN(5))
	} else {
		k.mine[m.Ref()] = string(m.Data)
	}
	k.push([]mutlog.Mutation{m})
	k.pushes.Add(1)
}

// push pushes until it is applied, and is level with the log then.
func (k *keeper) push(mutations []mutlog.Mutation) {
	for range 100 {
		pushed, err := k.client.Push(context.Background(), client.Push{Base: k.cursor, Mutations: mutations, Merge: true})
		var refusal *mutlog.OutOfSyncError
		switch {
		case err == nil:
			if pushed.Changes != nil {
				k.apply(pushed.Changes)
			}
			k.apply(pushed.Mutations)
			k.cursor = pushed.Head
			return
		case errors.As(err, &refusal):
			k.pull()
		default:
			k.t.Errorf("%s: %v", k.name, err)
			return
		}
	}
	k.t.Errorf("%s: a push was refused 100 times", k.name)
}

func (k *keeper) apply(mutations []mutlog.Mutation) {
	for _, m := range mutations {
		k.rows[m.Ref()] = held{string(m.Data), m.Timestamp} // nobody deletes here
	}
}

// pull brings the device up to the log. If it is told that it is ahead, it takes
// the snapshot, and sends again what it holds and the server has lost.
func (k *keeper) pull() {
	err := k.changes(k.cursor)
	var refusal *mutlog.OutOfSyncError
	if err == nil || !errors.As(err, &refusal) || refusal.Reason != mutlog.CursorAhead {
		if err != nil {
			k.t.Errorf("%s: %v", k.name, err)
		}
		return
	}
	k.told++
	old := maps.Clone(k.rows)
	clear(k.rows)
	if err := k.changes(mutlog.Beginning); err != nil {
		k.t.Errorf("%s: %v", k.name, err)
		return
	}
	var lost []mutlog.Mutation
	for ref, row := range old {
		if now, there := k.rows[ref]; !there || now.at < row.at {
			lost = append(lost, mutlog.Mutation{Type: mutlog.Create, Resource: ref.Resource, ResourceID: ref.ResourceID, Data: []byte(row.data)})
		}
	}
	k.again += len(lost)
	for len(lost) > 0 {
		n := min(len(lost), 100)
		k.push(lost[:n])
		lost = lost[n:]
	}
}

func (k *keeper) sync() { k.pull() }

func (k *keeper) changes(since mutlog.Timestamp) error {
	pull := k.client.Pull(context.Background(), client.Query{Since: since})
	for m, err := range pull.All() {
		if err != nil {
			return err
		}
		k.apply([]mutlog.Mutation{m})
	}
	k.cursor, _ = pull.Head()
	return nil
}

// heads returns the heads that are certainly on disk.
func heads(t *testing.T, crew []*keeper) map[mutlog.User]mutlog.Timestamp {
	t.Helper()
	heads := map[mutlog.User]mutlog.Timestamp{}
	for _, k := range crew {
		head, err := k.client.Head(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		heads[k.user] = head
	}
	return heads
}

// prefixes checks that the backup in file is a prefix of every log in the store,
// with all up to the heads before it was begun, and returns the heads in it.
func prefixes(t *testing.T, file, path string, before map[mutlog.User]mutlog.Timestamp) map[mutlog.User]mutlog.Timestamp {
	t.Helper()
	whole, saved := openToRead(t, path), openToRead(t, file)
	defer whole.Close()
	defer saved.Close()
	heads := map[mutlog.User]mutlog.Timestamp{}
	for user, head := range before {
		all, some := batches(t, whole, user), batches(t, saved, user)
		if len(some) == 0 || len(some) > len(all) || !reflect.DeepEqual(some, all[:len(some)]) {
			t.Fatalf("the %d batches of %s in the backup are no prefix of the %d in the log", len(some), user, len(all))
		}
		heads[user] = some[len(some)-1].Head()
		if heads[user] < head {
			t.Fatalf("the backup of %s ends with %d, and %d had been acknowledged before", user, heads[user], head)
		}
	}
	return heads
}

// converged checks that all devices of a user hold the same, and every device
// what it made.
func converged(t *testing.T, crew []*keeper) {
	t.Helper()
	first := map[mutlog.User]*keeper{}
	for _, k := range crew {
		for ref, data := range k.mine {
			if k.rows[ref].data != data {
				t.Fatalf("%s: %s is %q, and was acknowledged as %q", k.name, ref.ResourceID, k.rows[ref].data, data)
			}
		}
		other := first[k.user]
		if other == nil {
			first[k.user] = k
		} else if k.cursor != other.cursor || !maps.Equal(k.rows, other.rows) {
			t.Fatalf("%s and %s hold %d and %d resources as of %d and %d, and not the same", k.name, other.name,
				len(k.rows), len(other.rows), k.cursor, other.cursor)
		}
	}
}
