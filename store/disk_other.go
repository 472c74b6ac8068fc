//go:build !linux

package store

import "errors"

// Disk is known on Linux only.
func (s *Bolt) Disk() (free, size int64, err error) {
	return 0, 0, errors.ErrUnsupported
}
