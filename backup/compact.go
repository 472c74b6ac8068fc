package backup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"tidemark/store"
)

// Compact puts a compact store with the same logs in the place of the one at
// path, which nobody else may have open, and returns the sizes of both in bytes.
// The file system needs room for the two. A crash leaves the one or the other at
// path, complete.
func Compact(ctx context.Context, path string, progress func(step string, done, total int64)) (before, after int64, err error) {
	if _, err := os.Stat(path); err != nil { // it would be created
		return 0, 0, err
	}
	s, err := store.OpenBolt(path, store.BoltOptions{})
	if err != nil {
		return 0, 0, err
	}
	defer s.Close()
	work, err := newWorkplace(path + ".compact")
	if err != nil {
		return 0, 0, err
	}
	defer work.close()
	o := Options{Progress: progress}
	part := filepath.Join(work.dir, "part")
	if err := s.Compact(ctx, part, o.progress("compacting")); err != nil {
		return 0, 0, err
	}
	made := new(Manifest)
	if err := made.check(ctx, part, &o); err != nil {
		return 0, 0, fmt.Errorf("verifying the compact store: %w", err)
	}
	was, err := s.Summary()
	if err != nil {
		return 0, 0, err
	}
	if err := os.Rename(part, path); err != nil {
		return 0, 0, err
	}
	return was.Bytes, made.Bytes, syncDir(filepath.Dir(path))
}
