package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"time"

	"tidemark/bench/load"
)

// bigMutations is how many each user of the large store has, in pushes of
// bigBatch.
const (
	bigMutations = 10
	bigBatch     = 5
)

// bigStore is the large store, and what this run knows of its users.
type bigStore struct {
	ready   bool
	devices []load.Device // which know the heads of all users

	// What is kept beside the store.
	Users     int     `json:"users"`
	Mutations int     `json:"mutations"`
	JSONBytes int64   `json:"jsonBytes"` // of the bodies of all pushes
	DiskBytes int64   `json:"diskBytes"` // after the last of them
	Seconds   float64 `json:"seconds"`   // that it took
}

func (b *bench) bigPath() string { return filepath.Join(b.bigDir, "tidemark.db") }
func (b *bench) bigFile() string { return filepath.Join(b.bigDir, "big.json") }

// onBig runs fn on a tidemark with the large store, which is made if it is not
// there, and lies in the memory of the system.
func (b *bench) onBig(ctx context.Context, fn func(*subject) error) error {
	if err := b.makeBig(ctx); err != nil {
		return err
	}
	if err := read(b.bigDir); err != nil {
		return err
	}
	s, err := b.tidemark(ctx, b.bigPath())
	return with(s, err, fn)
}

// makeBig makes the large store over HTTP, as devices would, unless it is there.
func (b *bench) makeBig(ctx context.Context) error {
	if b.big.ready {
		return nil
	}
	known, err := os.ReadFile(b.bigFile())
	if err == nil {
		b.big.ready = true
		return json.Unmarshal(known, &b.big)
	}
	if err := os.MkdirAll(b.bigDir, 0o755); err != nil {
		return err
	}
	s, err := b.tidemark(ctx, b.bigPath())
	err = with(s, err, func(s *subject) error {
		sync := b.sync(s)
		sync.Users, sync.Batch, sync.Turns = b.scale.bigUsers, bigBatch, bigMutations/bigBatch
		r, err := checked(ctx, load.Run(ctx, load.Options{URL: s.url}, sync.Devices()))
		if err != nil {
			return err
		}
		b.big = bigStore{Users: sync.Users, Mutations: int(r.Requests) * bigBatch, JSONBytes: r.Pushed, Seconds: r.Seconds}
		return nil
	})
	if err != nil {
		return err
	}
	if b.big.DiskBytes, err = size(b.bigDir); err != nil {
		return err
	}
	kept, err := json.Marshal(b.big)
	if err != nil {
		return err
	}
	b.big.ready = true
	return os.WriteFile(b.bigFile(), kept, 0o644)
}

// size returns how many bytes the files of a directory have.
func size(dir string) (n int64, err error) {
	err = filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			n += info.Size()
		}
		return err
	})
	return n, err
}

// each opens all files of a directory.
func each(dir string, fn func(*os.File) error) error {
	return filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(fn(f), f.Close())
	})
}

// read brings the files of a directory into the memory of the system.
func read(dir string) error {
	return each(dir, func(f *os.File) error {
		_, err := io.Copy(struct{ io.Writer }{io.Discard}, f)
		return err
	})
}

// bigStart notes as other the seconds from the start of the process to its first
// answer, when nothing of the store is in memory.
func bigStart(ctx context.Context, b *bench, name string) error {
	if err := b.makeBig(ctx); err != nil {
		return err
	}
	if err := each(b.bigDir, forget); err != nil {
		return err
	}
	begin := time.Now()
	s, err := b.tidemark(ctx, b.bigPath())
	return with(s, err, func(s *subject) error {
		sync := b.sync(s)
		sync.Fresh = false
		if err := sync.Try(ctx); err != nil {
			return err
		}
		b.note(name, figure{other: time.Since(begin).Seconds()})
		return nil
	})
}

func bigPolls(ctx context.Context, b *bench, name string) error {
	return b.onBig(ctx, func(s *subject) error {
		return b.measure(ctx, name, s, load.Poll, polls(s, b.big.Users, len(anyHead)))
	})
}

func bigPushes(ctx context.Context, b *bench, name string) error {
	return b.onBig(ctx, func(s *subject) error {
		if b.big.devices == nil {
			sync := b.sync(s)
			sync.Users, sync.Fresh, sync.Seed = b.big.Users, false, uint64(time.Now().UnixNano())
			b.big.devices = sync.Devices()
			learners := load.Learn(b.big.devices)
			if err := b.fill(ctx, s, learners); err != nil {
				return err
			}
		}
		return b.measure(ctx, name, s, load.Push, b.big.devices)
	})
}
