// Package storetest opens the store that tests run on: an empty bbolt file, or,
// with TIDEMARK_TEST_STORE=postgres in the environment, an empty PostgreSQL
// database. So the suites of what stands above the store run on both:
//
//	TIDEMARK_TEST_STORE=postgres go test ./server ./client ./cmd/tidemark
//
// The conformance suite of package store needs no such choice: it knows them
// all. No program imports this package.
package storetest

import (
	"os"
	"path/filepath"
	"testing"

	"tidemark/store"
	"tidemark/store/postgrestest"
)

// Kind is the kind of store that the tests of this run are about: "bolt" or
// "postgres".
func Kind() string {
	if kind := os.Getenv("TIDEMARK_TEST_STORE"); kind != "" {
		return kind
	}
	return "bolt"
}

// URL names a store that is empty, and gone after the test.
func URL(t testing.TB) string {
	t.Helper()
	switch Kind() {
	case "bolt":
		return filepath.Join(t.TempDir(), "tidemark.db")
	case "postgres":
		return postgrestest.URL(t)
	}
	t.Fatalf("TIDEMARK_TEST_STORE=%s: want bolt or postgres", Kind())
	return ""
}

// Open opens an empty store. It does not close it.
func Open(t testing.TB) store.Store {
	t.Helper()
	s, err := store.Open(URL(t), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
