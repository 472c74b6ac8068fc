package main

import (
	"errors"
	"testing"

	"tidemark/store"
)

// disk is a store whose disk has so much room.
type disk struct {
	free, pages int64
	err         error
}

func (d disk) Disk() (int64, int64, error)     { return d.free, 1 << 40, d.err }
func (d disk) Stats() (store.BoltStats, error) { return store.BoltStats{FreeBytes: d.pages}, nil }

// A server is ready as long as its store can grow, or need not, or it is not known.
func TestHasRoom(t *testing.T) {
	for _, c := range []struct {
		disk  disk
		ready bool
	}{
		{disk{free: 1 << 40}, true},
		{disk{free: minRoom}, true},
		{disk{free: minRoom - 1}, false},
		{disk{free: 0, pages: minRoom}, true},
		{disk{free: 0, pages: 4096}, false},
		{disk{err: errors.ErrUnsupported}, true},
	} {
		if err := roomIn(c.disk)(t.Context()); (err == nil) != c.ready {
			t.Errorf("%+v: %v", c.disk, err)
		}
	}
}
