package backup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// workplace is a directory for files that are not complete. Who works in it
// holds its lock, which ends with the process: what a crash has left in it is
// removed by the next who does the same work.
type workplace struct {
	dir  string
	lock *os.File
}

// workSuffix is what the name of the workplace of a backup ends with.
const workSuffix = ".tmp"

func newWorkplace(dir string) (*workplace, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("%s: another process is at the same work", dir)
	}
	w := &workplace{dir, lock}
	left, err := os.ReadDir(dir)
	for _, entry := range left {
		err = errors.Join(err, os.Remove(filepath.Join(dir, entry.Name())))
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return w, nil
}

// close removes the workplace with all that is in it.
func (w *workplace) close() {
	os.RemoveAll(w.dir)
	w.lock.Close()
}

// Appear makes the complete file at part, on disk, known as path, durably; it
// fails if there is something. It leaves nothing at part, or under both names.
func Appear(part, path string) error {
	if err := os.Link(part, path); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := os.Rename(part, path); err != nil { // a file system without links
			return err
		}
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
