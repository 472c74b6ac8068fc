package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tidemark/mutlog"
	"tidemark/store"
)

// What serve verifies of a store by itself: everything if it is small or was
// not closed, else what can be done in no time.
func TestAutoMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tidemark.db")
	s, err := store.OpenBolt(path, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	log := mutlog.New(s, mutlog.Limits{DataBytes: 1 << 20})
	grow := func(mutations int) {
		t.Helper()
		head, err := log.Head(t.Context(), "alice")
		if err != nil {
			t.Fatal(err)
		}
		p := mutlog.Push{Base: head}
		for range mutations {
			data := fmt.Sprintf(`{"body":%q}`, strings.Repeat("x", 1<<19))
			p.Mutations = append(p.Mutations, mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", Data: []byte(data)})
		}
		if _, err := log.Push(t.Context(), "alice", p); err != nil {
			t.Fatal(err)
		}
	}
	mode := func(what, path, want string) {
		t.Helper()
		s, err := store.OpenBolt(path, store.BoltOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if got, err := (&checkCommand{Mode: checkAuto}).mode(s); got != want || err != nil {
			t.Errorf("%s: mode %s, %v; want %s", what, got, err, want)
		}
	}
	crashed := filepath.Join(t.TempDir(), "crashed.db")
	crash := func() {
		t.Helper()
		content, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(crashed, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	grow(1)
	crash()
	mode("small, crashed", crashed, checkFull)
	grow(20)
	crash()
	mode("large, crashed", crashed, checkFull)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mode("large, closed", path, checkQuick)
}
