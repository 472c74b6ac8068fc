package backup

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"tidemark/store"
)

// Schedule makes backups of a store in service again and again.
type Schedule struct {
	Store *store.Bolt
	Dir   string        // where they go, which exists
	Every time.Duration // from the beginning of one to that of the next
	Keep  int           // how many; older ones are removed
	Options
	Logger *slog.Logger

	mu     sync.Mutex
	status Status
}

// Status says how a schedule fares.
type Status struct {
	Made     time.Time     // of the newest backup that succeeded; zero if none has
	Took     time.Duration // the newest one that succeeded
	Bytes    int64         // of its store
	Failures int64         // of attempts since the start
}

// Status returns how s fares; it may be asked at any time.
func (s *Schedule) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status
}

// retryAfter is how soon a backup that failed is tried again, if it is not due
// sooner.
const retryAfter = 10 * time.Minute

// Run makes backups until ctx is done. The first is due when the newest in the
// directory is as old as Every, so that a restart makes none too many.
func (s *Schedule) Run(ctx context.Context) {
	due := time.Now()
	if found := s.backups(); len(found) > 0 {
		due = found[len(found)-1].manifest.Made.Add(s.Every)
		s.note(found[len(found)-1].manifest, 0)
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(due)):
		}
		began := time.Now()
		due = began.Add(s.Every)
		if err := s.once(ctx, began); err != nil && ctx.Err() == nil {
			s.Logger.Error("the backup failed", "dir", s.Dir, "error", err)
			due = began.Add(min(s.Every, retryAfter))
			s.mu.Lock()
			s.status.Failures++
			s.mu.Unlock()
		}
	}
}

// once makes a backup and removes those that are too many.
func (s *Schedule) once(ctx context.Context, now time.Time) error {
	path := filepath.Join(s.Dir, prefix+now.UTC().Format(timeFormat)+suffix)
	m, err := Make(ctx, s.Store, path, s.Options)
	if err != nil {
		return err
	}
	s.note(m, time.Since(now))
	s.Logger.Info("backup", "file", path, "users", m.Users, "batches", m.Batches, "bytes", m.Bytes, "took", time.Since(now).Round(time.Millisecond))
	found := s.backups()
	for _, f := range found[:max(0, len(found)-s.Keep)] {
		if err := os.Remove(f.path); err != nil {
			return err
		}
	}
	s.removeLeft()
	return nil
}

func (s *Schedule) note(m *Manifest, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Made, s.status.Took, s.status.Bytes = m.Made, took, m.Bytes
}

// Names of scheduled backups: tidemark-20261120T100000Z.backup.
const (
	prefix = "tidemark-"
	suffix = ".backup"
)

type found struct {
	path     string
	manifest *Manifest
}

// backups returns the backups of this very store that a schedule made, the
// oldest first. What is anything else is nobody's to remove.
func (s *Schedule) backups() (all []found) {
	sum, err := s.Store.Summary()
	if err != nil {
		return nil
	}
	paths, _ := filepath.Glob(filepath.Join(s.Dir, prefix+"*"+suffix))
	for _, path := range paths {
		if m, err := Read(path); err == nil && m.Store == sum.ID {
			all = append(all, found{path, m})
		}
	}
	slices.SortFunc(all, func(a, b found) int {
		return cmp.Or(a.manifest.Made.Compare(b.manifest.Made), strings.Compare(a.path, b.path))
	})
	return all
}

// removeLeft removes what a crash has left of backups that were not complete.
func (s *Schedule) removeLeft() {
	dirs, _ := filepath.Glob(filepath.Join(s.Dir, prefix+"*"+suffix+workSuffix))
	for _, dir := range dirs {
		if w, err := newWorkplace(dir); err == nil { // else somebody is at work in it
			w.close()
		}
	}
}
