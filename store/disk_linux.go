package store

import "syscall"

// Disk returns what the file system of a directory has left for this process, and
// its size, in bytes.
func Disk(dir string) (free, size int64, err error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return 0, 0, err
	}
	block := int64(fs.Bsize)
	return int64(fs.Bavail) * block, int64(fs.Blocks) * block, nil
}
