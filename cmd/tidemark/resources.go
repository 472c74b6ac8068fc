package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"

	"tidemark/mutlog"
	"tidemark/resources"
)

// resourceFile is what a server goes by: the resource file as it was when it
// was last read and right.
type resourceFile struct {
	path   string
	logger *slog.Logger
	kinds  atomic.Pointer[mutlog.Kinds]
}

// openResources reads the resource file at path, and again at each SIGHUP until
// ctx is done. Without a path every kind of resource is allowed.
func openResources(ctx context.Context, path string, logger *slog.Logger) (func() mutlog.Kinds, error) {
	if path == "" {
		return nil, nil
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	kinds, err := resources.Read(path)
	if err != nil {
		signal.Stop(hangups)
		return nil, &exitError{exitConfiguration, err}
	}
	f := &resourceFile{path: path, logger: logger}
	f.kinds.Store(&kinds)
	go f.follow(ctx, hangups)
	return func() mutlog.Kinds { return *f.kinds.Load() }, nil
}

// follow reads the file at each hangup until ctx is done.
func (f *resourceFile) follow(ctx context.Context, hangups chan os.Signal) {
	defer signal.Stop(hangups)
	for {
		select {
		case <-hangups:
			f.reload()
		case <-ctx.Done():
			return
		}
	}
}

// reload takes the file as it is now, unless it is wrong.
func (f *resourceFile) reload() {
	kinds, err := resources.Read(f.path)
	if err != nil {
		f.logger.Error("the resource file is wrong; the server goes on with what it was before", "file", f.path, "error", err)
		return
	}
	f.kinds.Store(&kinds)
	f.logger.Info("the resource file was read again", "file", f.path, "resources", len(kinds))
}

// Run says what is wrong in a resource file, a line each.
func (c *resourcesCheckCommand) Run(io streams) error {
	kinds, err := resources.Read(c.File)
	var problems resources.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			fmt.Fprintln(io.out, strings.ReplaceAll(p.String(), "\n", " "))
		}
		return fmt.Errorf("%s is wrong: %d problems", c.File, len(problems))
	case err != nil:
		return err
	}
	fmt.Fprintf(io.out, "%s is right: %d resources\n", c.File, len(kinds))
	return nil
}
