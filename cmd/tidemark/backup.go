package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"tidemark/admin"
	"tidemark/backup"
	"tidemark/mutlog"
	"tidemark/store"
)

// Run writes a backup of a store.
func (c *backupCommand) Run(io streams) error {
	if c.Worker != "" {
		ctx, stop := untilInterrupted()
		defer stop()
		return c.finish(ctx, io)
	}
	file, err := filepath.Abs(c.File) // the server may be elsewhere
	if err != nil {
		return err
	}
	return c.administer(false, func(ctx context.Context, a *admin.Client) error {
		steps := newSteps(io.err, inBytes)
		defer steps.end()
		m, err := a.Backup(ctx, admin.NewBackup{File: file, BytesPerSecond: c.Rate}, steps.report)
		if err != nil {
			return err
		}
		steps.end()
		fmt.Fprintf(io.out, "%s holds %d users and %d batches in %s, and is sound\n", c.File, m.Users, m.Batches, inBytes.text(float64(m.Bytes), ""))
		return nil
	})
}

// workerEvent is a line that the worker of a backup prints.
type workerEvent struct {
	Step     string           `json:"step,omitempty"`
	Done     int64            `json:"done,omitempty"`
	Total    int64            `json:"total,omitempty"`
	Manifest *backup.Manifest `json:"manifest,omitempty"`
}

// finish is the second half of a backup, as a process of its own.
func (c *backupCommand) finish(ctx context.Context, io streams) error {
	runtime.GOMAXPROCS(1)
	yieldToOthers()
	out := json.NewEncoder(io.out)
	o := backup.Options{BytesPerSecond: c.Rate, Progress: func(step string, done, total int64) {
		_ = out.Encode(workerEvent{Step: step, Done: done, Total: total}) // nobody to tell: the parent is gone
	}}
	m, err := backup.Finish(ctx, c.Worker, c.File, c.Made, o)
	if err != nil {
		return err
	}
	return out.Encode(workerEvent{Manifest: m})
}

// finishApart does the second half of a backup in a process of its own.
func finishApart(ctx context.Context, copied, part string, made time.Time, o backup.Options) (*backup.Manifest, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "backup", part, "--worker="+copied, "--made="+made.Format(time.RFC3339Nano),
		fmt.Sprintf("--rate=%d", o.BytesPerSecond))
	cmd.SysProcAttr = endWithParentApart()
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var m *backup.Manifest
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e workerEvent
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue
		}
		if m = e.Manifest; m == nil && o.Progress != nil {
			o.Progress(e.Step, e.Done, e.Total)
		}
	}
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		if line, _, found := strings.Cut(strings.TrimPrefix(said.String(), "tidemark: "), "\n"); found {
			err = errors.New(line)
		}
		return nil, err
	case m == nil:
		return nil, errors.New("the worker of the backup ended without a word")
	}
	return m, nil
}

func (f *backupFlags) validate() error {
	switch {
	case f.BackupEvery < time.Second:
		return usageError("--backup-every must be at least 1s")
	case f.BackupKeep < 1:
		return usageError("--backup-keep must be at least 1")
	case f.BackupRate < 0:
		return usageError("--backup-rate must be at least 0")
	}
	return nil
}

// schedule returns what makes backups of s, or nil if that is not asked for.
func (f *backupFlags) schedule(s mutlog.Store, logger *slog.Logger) (*backup.Schedule, error) {
	if f.BackupDir == "" {
		return nil, nil
	}
	bolt, ok := s.(*store.Bolt)
	if !ok {
		return nil, usageError("--backup-dir is for a store in a file; a database has backups of its own, such as pg_dump")
	}
	if info, err := os.Stat(f.BackupDir); err != nil || !info.IsDir() {
		return nil, usageError("--backup-dir %s is no directory", f.BackupDir)
	}
	return &backup.Schedule{Store: bolt, Dir: f.BackupDir, Every: f.BackupEvery, Keep: f.BackupKeep, Logger: logger,
		Options: backup.Options{BytesPerSecond: f.BackupRate, Finish: finishApart}}, nil
}

// Run puts a compact store in the place of one.
func (c *compactCommand) Run(io streams) error {
	if store.IsDatabase(c.Store) {
		return usageError("compact is for a store in a file; a database uses free space again by itself, and VACUUM FULL gives it back")
	}
	ctx, stop := untilInterrupted()
	defer stop()
	steps := newSteps(io.err, inBytes)
	defer steps.end()
	before, after, err := backup.Compact(ctx, c.Store, steps.report)
	switch {
	case errors.Is(err, store.ErrInUse):
		return fmt.Errorf("%w; stop the server first", err)
	case err != nil:
		return storeError(err)
	}
	steps.end()
	fmt.Fprintf(io.out, "%s had %s and has %s now\n", c.Store, inBytes.text(float64(before), ""), inBytes.text(float64(after), ""))
	return nil
}
