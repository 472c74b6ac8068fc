package store

import (
	"path/filepath"
	"syscall"
)

// Disk returns what the file system of the store has left for this process, and
// its size, in bytes.
func (s *Bolt) Disk() (free, size int64, err error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(s.path), &fs); err != nil {
		return 0, 0, err
	}
	block := int64(fs.Bsize)
	return int64(fs.Bavail) * block, int64(fs.Blocks) * block, nil
}
