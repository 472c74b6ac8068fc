package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"tidemark/mutlog"
	"tidemark/store"
)

// Options say how a backup is made.
type Options struct {
	// BytesPerSecond bounds reading and writing, so that pushes keep their share
	// of the disk; 0 means no bound.
	BytesPerSecond int64

	// Progress, if it is not nil, is told how far each step is, in bytes.
	Progress func(step string, done, total int64)

	// Finish is the second half, Finish of this package, wherever it is done: in
	// service in a process of its own, which has its own memory and a low
	// priority, and in which damage ends no server. nil means here.
	Finish func(ctx context.Context, copied, part string, made time.Time, o Options) (*Manifest, error)
}

func (o *Options) progress(step string) func(done, total int64) {
	return func(done, total int64) {
		if o.Progress != nil {
			o.Progress(step, done, total)
		}
	}
}

// ErrExists: there is a file where a backup should be.
var ErrExists = errors.New("exists; a backup never replaces a file")

// Make writes a backup of s to the new file at path, and returns its manifest.
//
// First it copies the pages of the store beside path. Then it makes a compact
// store of the copy, and verifies that.
func Make(ctx context.Context, s *store.Bolt, path string, o Options) (*Manifest, error) {
	if o.Finish == nil {
		o.Finish = Finish
	}
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("%s %w", path, ErrExists)
	}
	work, err := newWorkplace(path + workSuffix)
	if err != nil {
		return nil, err
	}
	defer work.close()
	if err := room(s, work.dir); err != nil {
		return nil, err
	}
	copied, part := filepath.Join(work.dir, "copy"), filepath.Join(work.dir, "part")
	made := time.Now().UTC()
	if err := copyPages(ctx, s, copied, &o); err != nil {
		return nil, fmt.Errorf("copying the store: %w", err)
	}
	m, err := o.Finish(ctx, copied, part, made, o)
	if err != nil {
		return nil, err
	}
	return m, Appear(part, path)
}

// ErrNoRoom: a file system has not got the room that a backup takes while it is
// made.
var ErrNoRoom = errors.New("there is no room for a backup")

// spareBytes is what a backup leaves of a file system: it may be that of the
// store, and pushes shall not be refused for the sake of a backup.
const spareBytes = 32 << 20

// room fails if there is no room in dir for a copy of s and a compact one.
func room(s *store.Bolt, dir string) error {
	stats, err := s.Stats()
	if err != nil {
		return err
	}
	free, _, err := store.Disk(dir)
	if need := 2*stats.FileBytes - stats.FreeBytes + spareBytes; err == nil && free < need {
		return fmt.Errorf("%w: it takes %d bytes while it is made, and %d are free", ErrNoRoom, need, free)
	}
	return nil // or it is not known
}

// copyPages writes one state of s to a new file.
func copyPages(ctx context.Context, s *store.Bolt, path string, o *Options) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	total, err := s.Size()
	if err != nil {
		return err
	}
	pace, progress, synced := newPace(ctx, o.BytesPerSecond), o.progress("copying"), int64(0)
	_, err = s.Copy(ctx, f, func(read, written int64) error {
		if written-synced >= syncEvery {
			synced = written
			if err := f.Sync(); err != nil {
				return err
			}
		}
		progress(min(read, total), total)
		return pace.wait(max(written, read/lookShare))
	})
	return errors.Join(err, f.Close())
}

// Finish makes a compact store of the one that was copied, verifies all of it,
// and adds the manifest. It removes what was copied once it is not needed.
func Finish(ctx context.Context, copied, part string, made time.Time, o Options) (*Manifest, error) {
	if err := compact(ctx, copied, part, &o); err != nil {
		return nil, fmt.Errorf("compacting the copy: %w", err)
	}
	if err := os.Remove(copied); err != nil {
		return nil, err
	}
	m := &Manifest{Kind: kindBackup, Version: manifestVersion, Made: made}
	if err := m.check(ctx, part, &o); err != nil {
		return nil, fmt.Errorf("verifying the backup: %w", err)
	}
	return m, m.seal(ctx, part, &o)
}

func compact(ctx context.Context, from, to string, o *Options) error {
	s, err := store.OpenBolt(from, store.BoltOptions{ReadOnly: true, AnyFileSystem: true})
	if err != nil {
		return err
	}
	defer s.Close()
	pace, progress := newPace(ctx, o.BytesPerSecond), o.progress("compacting")
	return s.Compact(ctx, to, func(done, total int64) {
		pace.wait(done) // an end of ctx is noticed by Compact, too
		progress(done, total)
	})
}

// check verifies the store in part, all rules included, and notes what it holds.
func (m *Manifest) check(ctx context.Context, part string, o *Options) error {
	s, err := store.OpenBolt(part, store.BoltOptions{ReadOnly: true, AnyFileSystem: true})
	if err != nil {
		return err
	}
	defer s.Close()
	sum, err := s.Summary()
	if err != nil {
		return err
	}
	progress := o.progress("verifying")
	counted := &Counted{Store: s, Read: func(batches int64) {
		share := float64(batches) / float64(max(batches, int64(sum.Batches)))
		progress(int64(share*float64(sum.Bytes)), sum.Bytes)
	}}
	problem := ""
	err = mutlog.Check(ctx, counted, func(p string) {
		if problem == "" {
			problem = p
		}
	})
	switch {
	case err != nil:
		return err
	case problem != "":
		return fmt.Errorf("%w: %s", store.ErrDamaged, problem)
	}
	m.Store, m.Format, m.Batches, m.Bytes = sum.ID, sum.Format, sum.Batches, sum.Bytes
	return s.Users(ctx, func(mutlog.User) error {
		m.Users++
		return nil
	})
}

// seal adds the manifest to the store in part, and makes both durable.
func (m *Manifest) seal(ctx context.Context, part string, o *Options) error {
	f, err := os.OpenFile(part, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha256.New()
	w := &pacedWriter{Writer: hash, pace: newPace(ctx, o.BytesPerSecond), total: m.Bytes, progress: o.progress("summing up")}
	if _, err := io.Copy(w, io.NewSectionReader(f, 0, m.Bytes)); err != nil {
		return err
	}
	m.SHA256 = hex.EncodeToString(hash.Sum(nil))
	if err := f.Truncate(m.Bytes); err != nil { // bbolt may have made the file larger than its pages
		return err
	}
	if err := m.appendTo(f); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}
