package main

import (
	"os"
	"syscall"
)

// dataSync waits until the content of f is on disk.
func dataSync(f *os.File) error { return syscall.Fdatasync(int(f.Fd())) }

// forget makes the system drop what it has of a file in memory, so that the
// next who opens it reads the disk.
func forget(f *os.File) error {
	const dontNeed = 4 // POSIX_FADV_DONTNEED
	if err := f.Sync(); err != nil {
		return err
	}
	if _, _, errno := syscall.Syscall6(syscall.SYS_FADVISE64, f.Fd(), 0, 0, dontNeed, 0, 0); errno != 0 {
		return errno
	}
	return nil
}
