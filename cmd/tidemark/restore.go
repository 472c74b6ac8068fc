package main

import (
	"errors"
	"fmt"
	"time"

	"tidemark/backup"
	"tidemark/store"
)

// Run puts the store in a backup in the place of another.
func (c *restoreCommand) Run(io streams) error {
	if store.IsDatabase(c.Store) {
		return usageError("restore is for a store in a file; restore a database with what made its backup, and then run tidemark fence")
	}
	ctx, stop := untilInterrupted()
	defer stop()
	steps := newSteps(io.err, inBytes)
	defer steps.end()
	r, err := backup.Restore(ctx, c.File, c.Store, time.Now(), steps.report)
	switch {
	case errors.Is(err, store.ErrInUse):
		return fmt.Errorf("%w; stop the server first", err)
	case errors.Is(err, backup.ErrNoBackup):
		return &exitError{exitDamaged, err}
	case err != nil:
		return storeError(err)
	}
	steps.end()
	fmt.Fprintf(io.out, "%s is as it was on %s: %d users, %d batches\n", c.Store, r.Made.Format(time.RFC3339), r.Users, r.Batches)
	if r.Kept != "" {
		fmt.Fprintf(io.out, "the store that was there is %s\n", r.Kept)
	}
	return nil
}
