package faults_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// sample makes a store with the work of some devices in it; it was closed, or
// the server was killed.
func sample(t testing.TB, closed bool) (store string, f *fleet) {
	t.Helper()
	store = filepath.Join(scratch(t), "tidemark.db")
	f = newFleet(t, 8, 6)
	rnd := newRandom(t)
	for fold := range 2 {
		s := start(t, store, options{fold: []int{100, 0}[fold]})
		stop, wait := f.run(s, rnd)
		f.awaitAcks(300)
		stop()
		wait()
		f.settle(s)
		if fold == 0 || closed {
			s.stop()
		} else {
			s.kill()
		}
	}
	return store, f
}

// used returns the size of the part of a file that is not zero.
func used(t testing.TB, path string) int64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(bytes.TrimRight(b, "\x00")))
}

// TestF14Truncated starts on files that have lost their end, or everything.
func TestF14Truncated(t *testing.T) {
	refused := 0
	for _, closed := range []bool{true, false} {
		store, _ := sample(t, closed)
		size := used(t, store)
		cut := filepath.Join(filepath.Dir(store), "cut.db")
		for _, left := range []int64{0, 1, 511, 4095, 4096, 4097, 8191, 8192, 12288, 16384, size / 4, size / 2, size * 3 / 4, size - 4096, size - 1} {
			copyFile(t, store, cut)
			if err := os.Truncate(cut, left); err != nil {
				t.Fatal(err)
			}
			code, out := run(t, "serve", "--addr", "127.0.0.1:0", "--store", cut)
			if code != 65 {
				t.Errorf("%d bytes left of %d: exit code %d, want 65: %s", left, size, code, out)
			}
			oneLine(t, out)
			if code, out := run(t, "check", "--store", cut); code != 1 || strings.Contains(out, "goroutine ") {
				t.Errorf("%d bytes left of %d: check exits with %d, want 1: %s", left, size, code, out)
			}
			if info, err := os.Stat(cut); err != nil || info.Size() != left {
				t.Errorf("%d bytes left of %d: the start has changed the file", left, size)
			}
			refused++
		}
	}
	counts(t, "%d truncated files refused with 65 and one line, and found unsound by check", refused)
}

// TestF15TruncatedWhileOpen cuts the file of a server under load, or removes it,
// or puts another in its place.
func TestF15TruncatedWhileOpen(t *testing.T) {
	ends := 0
	for name, damage := range map[string]func(store string) error{
		"empty":       func(store string) error { return os.Truncate(store, 0) },
		"two pages":   func(store string) error { return os.Truncate(store, 8192) },
		"a few pages": func(store string) error { return os.Truncate(store, 10*4096) },
		"removed":     os.Remove,
		"replaced": func(store string) error {
			os.WriteFile(store+".other", []byte("something else"), 0o600)
			return os.Rename(store+".other", store)
		},
	} {
		for range size(2, 20) {
			store := filepath.Join(scratch(t), "tidemark.db")
			f := newFleet(t, 8, 6)
			s := start(t, store, options{fold: 50})
			stop, wait := f.run(s, newRandom(t))
			f.awaitAcks(300)
			if err := damage(store); err != nil {
				t.Fatal(err)
			}
			// No push that is sent from now on may be accepted.
			b := f.newBatch(newRandom(t), 0, beginning)
			b.user = "somebody-new"
			if status, _ := f.push(s, b); status == http.StatusOK {
				t.Errorf("%s: a push behind the damage is acknowledged", name)
			}
			code := s.exit(20 * time.Second)
			stop()
			wait()
			if code == 0 {
				t.Errorf("%s: the server exits with 0", name)
			}
			if name != "removed" {
				code, out := run(t, "serve", "--addr", "127.0.0.1:0", "--store", store)
				if code != 65 {
					t.Errorf("%s: the next start exits with %d, want 65: %s", name, code, out)
				}
				oneLine(t, out)
			}
			ends++
		}
	}
	counts(t, "%d files cut, removed or replaced under load: no push acknowledged afterwards, the server ended, the next start refused with 65", ends)
}

// TestF16BitFlips flips one bit of a store, at random places and at all of the
// meta pages: what is served after that is as it was, or nothing is.
func TestF16BitFlips(t *testing.T) {
	for _, closed := range []bool{true, false} {
		t.Run(fmt.Sprintf("closed=%t", closed), func(t *testing.T) {
			r := flipBits(t, closed, "auto", size(1000, 20_000)/2)
			if r.refused.Load() == 0 || r.unaltered.Load() == 0 {
				t.Error("nothing was detected, or everything was")
			}
			if r.altered.Load() > 0 {
				t.Errorf("%d stores were served with altered data", r.altered.Load())
			}
			counts(t, "closed before: %t; %s", closed, r)
		})
	}
}

// TestF16QuickCheck does so to a store that is only checked quickly, as a large
// one is that was closed. Here a flip in the structure of a page can hide data
// until a full check: the test says how often. A flip in data must be noticed.
func TestF16QuickCheck(t *testing.T) {
	r := flipBits(t, true, "quick", size(200, 4000))
	if r.wrong.Load() > 0 {
		t.Errorf("%d stores were served with wrong data", r.wrong.Load())
	}
	counts(t, "quick check only; %s", r)
}

// flips counts what came of stores with a flipped bit.
type flips struct {
	refused   atomic.Int64 // at the start
	unaltered atomic.Int64 // all data was served as it was
	failed    atomic.Int64 // a log was answered with 500, or the server ended
	altered   atomic.Int64 // a log was served otherwise,
	wrong     atomic.Int64 // and not as one that ends early
}

func (r *flips) String() string {
	n := r.refused.Load() + r.unaltered.Load() + r.failed.Load() + r.altered.Load()
	return fmt.Sprintf("%d flipped bits: %d refused at the start, %d answered 500 or ended the server, %d in places that mean nothing, %d served altered (%d other than cut short)",
		n, r.refused.Load(), r.failed.Load(), r.unaltered.Load(), r.altered.Load(), r.wrong.Load())
}

func flipBits(t *testing.T, closed bool, mode string, random int) *flips {
	r := &flips{}
	rnd := newRandom(t)
	store, f := sample(t, closed)
	good, err := os.ReadFile(store)
	if err != nil {
		t.Fatal(err)
	}
	want := f.contents()
	size := used(t, store)
	var bits []int64
	for range random {
		bits = append(bits, rnd.Int64N(size*8))
	}
	for meta := range int64(2) {
		for offset := range int64(16 + 64) {
			bits = append(bits, (meta*4096+offset)*8+rnd.Int64N(8))
		}
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(bits, (len(bits)+1)/2) {
		wg.Go(func() {
			path := filepath.Join(scratch(t), "flipped.db")
			for _, bit := range part {
				b := slices.Clone(good[:size])
				b[bit/8] ^= 1 << (bit % 8)
				if err := errors.Join(os.WriteFile(path, b, 0o600), os.Truncate(path, int64(len(good)))); err != nil {
					t.Error(err)
					return
				}
				r.serve(t, path, mode, want, fmt.Sprintf("bit %d of byte %d", bit%8, bit/8))
			}
		})
	}
	wg.Wait()
	return r
}

// serve serves a store and compares all of it.
func (r *flips) serve(t *testing.T, path, mode string, want map[string]string, where string) {
	s := launch(t, path, options{args: []string{"--check", mode}})
	defer s.kill()
	if !s.await() {
		switch code := s.exit(10 * time.Second); {
		case code == 65:
			r.refused.Add(1)
		case code == 74 && s.addr != "": // it met the damage once it served, before it was asked
			r.failed.Add(1)
		default:
			t.Errorf("%s: the server exits with %d: %s", where, code, s.stderr.tail())
		}
		if strings.Contains(s.stderr.String(), "goroutine ") {
			t.Errorf("%s: the server ends with a trace: %s", where, s.stderr.tail())
		}
		return
	}
	failed, altered, wrong := false, false, false
	for user, history := range want {
		switch status, got := contents(s, user); {
		case status != http.StatusOK:
			failed = true
		case got != history:
			altered = true
			if wrong = !strings.HasPrefix(history, got); wrong {
				t.Logf("%s: %s: %d bytes of %d", where, user, len(got), len(history))
			}
		}
	}
	switch {
	case wrong:
		r.wrong.Add(1)
		fallthrough
	case altered:
		r.altered.Add(1)
	case failed:
		r.failed.Add(1)
	default:
		r.unaltered.Add(1)
	}
}

// contents returns the history of every user as the fleet verified it.
func (f *fleet) contents() map[string]string {
	users := map[string][]*batch{}
	for _, b := range f.byID {
		if b.found != beginning {
			users[b.user] = append(users[b.user], b)
		}
	}
	want := map[string]string{}
	for user, batches := range users {
		slices.SortFunc(batches, func(a, b *batch) int { return int(a.found - b.found) })
		var text strings.Builder
		for _, b := range batches {
			for i, m := range b.sent {
				m.Timestamp = b.found + int64(i)
				fmt.Fprintf(&text, "%s %s %s %s %d\n", m.Type, m.Resource, m.ResourceID, m.Data, m.Timestamp)
			}
		}
		want[user] = text.String()
	}
	return want
}

// contents asks for the same.
func contents(s *server, user string) (status int, history string) {
	status, body := s.get("/v1/sync?history=true&mutationsSince=-1", user)
	var answer struct {
		Data struct {
			Mutations []mutation `json:"mutations"`
		} `json:"data"`
	}
	if status == http.StatusOK && json.Unmarshal(body, &answer) != nil {
		return 0, string(body)
	}
	var text strings.Builder
	for _, m := range answer.Data.Mutations {
		fmt.Fprintf(&text, "%s %s %s %s %d\n", m.Type, m.Resource, m.ResourceID, m.Data, m.Timestamp)
	}
	return status, text.String()
}
