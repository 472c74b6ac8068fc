// Package store keeps the logs of package mutlog on disk. The contract that
// every backend keeps is mutlog.Store; one conformance suite holds them to it.
package store

import (
	"errors"
	"strings"

	"tidemark/mutlog"
)

// Errors of Open. Each is wrapped with the name of the store.
var (
	// ErrInUse: another process has the store open.
	ErrInUse = errors.New("is in use by another process")

	// ErrDamaged: there is something, and it is no sound store of tidemark.
	ErrDamaged = errors.New("is damaged, or no store of tidemark")

	// ErrNewer: the store was written by a newer version of tidemark.
	ErrNewer = errors.New("was written by a newer version of tidemark")
)

// Store is a backend: the contract of mutlog, and word of its end.
type Store interface {
	mutlog.Store

	// Failed is closed when the store has met an error after which only a
	// restart can tell what is on disk. From then on every call of it fails
	// with mutlog.ErrUnavailable.
	Failed() <-chan struct{}
}

// Open opens the store that url names: a PostgreSQL database, as
// postgres://user:password@host:5432/name, or the path of a bbolt file, which is
// created if it does not exist.
func Open(url string, options BoltOptions) (Store, error) {
	if IsDatabase(url) {
		return OpenPostgres(url)
	}
	if scheme, _, ok := strings.Cut(url, "://"); ok {
		return nil, errors.New(scheme + ":// is no kind of store; give the path of a file or postgres://…")
	}
	return OpenBolt(url, options)
}
