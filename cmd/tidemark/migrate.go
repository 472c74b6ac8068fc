package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"tidemark/mutlog"
	"tidemark/store"
	"tidemark/transfer"
)

// Run copies a store to another, and compares the two.
func (c *migrateCommand) Run(io streams) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop) // so that a second signal ends the process at once
	from, err := openSource(c.From)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := store.Open(c.To, store.BoltOptions{})
	if err != nil {
		return storeError(err)
	}
	defer to.Close()

	copying, verifying := newMeter(io.err, "copying", "logs"), newMeter(io.err, "verifying", "logs")
	m := transfer.Migration{From: from, To: to, Source: sourceName(c.From), Workers: c.Workers,
		Copied:   copying.report,
		Verified: func(done, total int64) { copying.end(); verifying.report(done, total) },
	}
	sum, err := m.Run(ctx)
	copying.end()
	verifying.end()
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted; %s must not be served yet. Run the same command again: it goes on where it was", store.Name(c.To))
	case errors.Is(err, transfer.ErrNotEmpty), errors.Is(err, transfer.ErrOtherSource):
		return &exitError{exitStorePath, fmt.Errorf("%s: %w", store.Name(c.To), err)}
	case errors.Is(err, mutlog.ErrUnavailable), errors.Is(err, mutlog.ErrOutcomeUnknown):
		return fmt.Errorf("%w; run the same command again: it goes on where it was", err)
	case err != nil:
		return err
	}
	fmt.Fprintf(io.out, "copied %d logs: %d batches of %d mutations; and %d records\n", sum.Logs, sum.Batches, sum.Mutations, sum.Records)
	fmt.Fprintf(io.out, "%s and %s answer alike\n", store.Name(c.From), store.Name(c.To))
	return nil
}

// whole refuses a store that has only a part of another: devices would be told
// that the server has lost what it has not got yet.
func whole(ctx context.Context, s mutlog.Store, url string) error {
	err := transfer.Unfinished(ctx, s)
	if errors.Is(err, transfer.ErrUnfinished) {
		return &exitError{exitDamaged, fmt.Errorf("store %s %w", store.Name(url), err)}
	}
	return storeError(err)
}

// openSource opens a store that must be there.
func openSource(url string) (store.Store, error) {
	if !store.IsDatabase(url) {
		if _, err := os.Stat(url); errors.Is(err, fs.ErrNotExist) {
			return nil, &exitError{exitStorePath, fmt.Errorf("store %s does not exist", url)}
		}
	}
	s, err := store.Open(url, store.BoltOptions{ReadOnly: true})
	return s, storeError(err)
}

// sourceName names a store for good: a path from the root, or a URL without what
// is secret.
func sourceName(url string) string {
	if store.IsDatabase(url) {
		return store.Name(url)
	}
	if path, err := filepath.Abs(url); err == nil {
		return path
	}
	return url
}
