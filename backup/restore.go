package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"tidemark/mutlog"
	"tidemark/store"
)

// Restored says what a restore has done.
type Restored struct {
	Manifest
	Fence mutlog.Timestamp // up to which each log has a gap
	Kept  string           // where the store is that was there before, or ""
}

// Restore puts the store in the backup at file in the place of the one at path,
// which it keeps under another name, and which nobody may have open. It refuses
// a file that is no complete backup, or of a newer version, and then nothing has
// changed. now is the time of the restore: no device can have seen a later
// timestamp, unless the clock of the server was wrong.
//
// A crash leaves the one store or the other at path, never a part of either, and
// never none if there was one.
func Restore(ctx context.Context, file, path string, now time.Time, progress func(step string, done, total int64)) (*Restored, error) {
	old, err := hold(path)
	if err != nil {
		return nil, err
	}
	defer old.release()
	work, err := newWorkplace(path + ".restore")
	if err != nil {
		return nil, err
	}
	defer work.close()
	o := Options{Progress: progress}
	part := filepath.Join(work.dir, "part")
	m, err := unpack(ctx, file, part, &o)
	if err != nil {
		return nil, err
	}
	r := &Restored{Manifest: *m, Fence: max(mutlog.Timestamp(now.UnixMilli()), old.newest(ctx))}
	if err := fence(ctx, part, r.Fence); err != nil {
		return nil, fmt.Errorf("recording the gap: %w", err)
	}
	if err := new(Manifest).check(ctx, part, &o); err != nil {
		return nil, fmt.Errorf("verifying the restored store: %w", err)
	}
	if !old.exists {
		return r, Appear(part, path)
	}
	r.Kept, err = keep(path, now)
	if err != nil {
		return nil, fmt.Errorf("keeping the store that is there: %w", err)
	}
	if err := os.Rename(part, path); err != nil {
		return nil, err
	}
	return r, syncDir(filepath.Dir(path))
}

// unpack writes the store in the backup at file to part, durably.
func unpack(ctx context.Context, file, part string, o *Options) (*Manifest, error) {
	from, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer from.Close()
	m, err := readManifest(from)
	if err != nil {
		return nil, err
	}
	to, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	defer to.Close()
	w := &pacedWriter{file: to, pace: newPace(ctx, 0), total: m.Bytes, progress: o.progress("copying")}
	if _, err := copyStore(from, w); err != nil {
		return nil, err
	}
	return m, errors.Join(to.Sync(), to.Close())
}

// fence records in the store at path that it was restored.
func fence(ctx context.Context, path string, at mutlog.Timestamp) error {
	s, err := store.OpenBolt(path, store.BoltOptions{AnyFileSystem: true})
	if err != nil {
		return err
	}
	return errors.Join(s.Fence(ctx, at), s.Close())
}

// keep gives the store at path a second name, and returns that.
func keep(path string, now time.Time) (string, error) {
	first := path + ".before-restore-" + now.UTC().Format(timeFormat)
	for kept, n := first, 2; ; kept, n = fmt.Sprint(first, "-", n), n+1 {
		err := os.Link(path, kept)
		if errors.Is(err, fs.ErrExist) && !sameFile(path, kept) {
			continue // another restore within the second
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		return kept, syncDir(filepath.Dir(path))
	}
}

func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// timeFormat is how names of files tell a time.
const timeFormat = "20060102T150405Z"

// held is a store that nobody else can open, sound or not.
type held struct {
	exists bool
	store  *store.Bolt // nil if it cannot be read
	lock   *os.File    // if there is no store
}

func hold(path string) (*held, error) {
	s, err := store.OpenBolt(path, store.BoltOptions{ReadOnly: true})
	switch {
	case err == nil:
		return &held{exists: true, store: s}, nil
	case errors.Is(err, fs.ErrNotExist):
		return &held{}, nil
	case errors.Is(err, store.ErrInUse):
		return nil, err
	}
	// What is damaged is what a restore is for.
	lock, openErr := os.Open(path)
	if openErr != nil {
		return nil, err
	}
	if syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil {
		lock.Close()
		return nil, fmt.Errorf("store %s %w", path, store.ErrInUse)
	}
	return &held{exists: true, lock: lock}, nil
}

// newest returns the newest timestamp in the store, gaps included, as far as it
// can be read: if the clock was ahead, devices may have seen later ones than now.
func (h *held) newest(ctx context.Context) (newest mutlog.Timestamp) {
	newest = mutlog.Beginning
	if h.store == nil {
		return newest
	}
	look := func(user mutlog.User) error {
		return h.store.View(ctx, user, func(tx mutlog.Reader) error {
			head, err := tx.Head()
			if err != nil {
				return err
			}
			bounds, err := tx.Bounds()
			newest = max(newest, head, bounds.End())
			return err
		})
	}
	_ = errors.Join(look(nobody), h.store.Users(ctx, look)) // what a damaged store does not tell, nobody knows
	return newest
}

// nobody is no user, and has the gaps of every log that there is not.
const nobody mutlog.User = ""

func (h *held) release() {
	switch {
	case h.store != nil:
		h.store.Close()
	case h.lock != nil:
		h.lock.Close()
	}
}
