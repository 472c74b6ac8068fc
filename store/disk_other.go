//go:build !linux

package store

import "errors"

// Disk is known on Linux only.
func Disk(dir string) (free, size int64, err error) { return 0, 0, errors.ErrUnsupported }
