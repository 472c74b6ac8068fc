package store

import (
	"path/filepath"
	"time"
)

// Commit is what a bbolt store tells of a transaction that it has made durable.
type Commit struct {
	Batches int           // that it brought
	Took    time.Duration // in all
	Synced  time.Duration // of that, to write it and wait for the disk
}

// BoltStats are figures of a bbolt store at one moment.
type BoltStats struct {
	Queued    int   // pushes that wait for the committer
	MaxQueued int   // how many may
	FileBytes int64 // of its pages, used and free
	FreeBytes int64 // of pages that the next commits use again
	Failed    bool  // only a restart can tell what is on disk
}

// Stats returns the figures of now. It takes no longer with a large store.
func (s *Bolt) Stats() (BoltStats, error) {
	size, err := s.Size()
	if err != nil {
		return BoltStats{}, err
	}
	return BoltStats{
		Queued: len(s.queue), MaxQueued: cap(s.queue),
		FileBytes: size, FreeBytes: int64(s.db.Stats().FreeAlloc),
		Failed: s.isFailed.Load(),
	}, nil
}

// Disk returns what the file system of the store has left, and its size, as the
// function of that name does.
func (s *Bolt) Disk() (free, size int64, err error) { return Disk(filepath.Dir(s.path)) }

// PostgresStats are figures of the connections to a database at one moment.
type PostgresStats struct {
	Used, Idle, Max int32
	Waits           int64         // for a connection, since the start
	Waited          time.Duration // in all
}

// Stats returns the figures of now.
func (s *Postgres) Stats() PostgresStats {
	p := s.pool.Stat()
	return PostgresStats{p.AcquiredConns(), p.IdleConns(), p.MaxConns(), p.EmptyAcquireCount(), p.EmptyAcquireWaitTime()}
}
