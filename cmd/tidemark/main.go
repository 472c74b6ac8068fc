// Command tidemark is an offline-first sync server, and the tools to run it.
// This package is the only place that wires the others together: one file per
// command, and one table of flags in flags.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"tidemark/store"
)

// The exit codes, as help lists them. Where sysexits.h has one, it is that.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 64
	exitDamaged     = 65
	exitAddress     = 69
	exitStorePath   = 73
	exitStoreFailed = 74
	exitInUse       = 75

	exitConfiguration = 78
	exitInterrupted   = 130 // as shells have it
)

const description = `tidemark is an offline-first sync server: devices push batches of mutations and
pull what others have pushed, and none overwrites what it has not seen.

Exit codes:

  0   success; check: the store is sound; resources check: the file is right
  1   failure; check: the store is unsound; resources check: the file is wrong
  64  a wrong command, flag or value
  65  the store is damaged, is none of tidemark, or is of a newer version
  69  the address cannot be listened on
  73  the path of the store cannot be used, or its database not be reached
  74  the store failed while serving; the next start verifies it
  75  the store is in use by another process
  78  the resource file is wrong or cannot be read
  130 interrupted: nothing has changed, or it goes on when it is run again`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// streams are where a command writes.
type streams struct{ out, err io.Writer }

// exitError is an error with the exit code it ends the process with.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// run is the whole program but for the process around it: it returns the exit
// code.
func run(args []string, stdout, stderr io.Writer) (code int) {
	var flags cli
	exited := -1
	parser, err := kong.New(&flags,
		kong.Name("tidemark"),
		kong.Description(description),
		kong.DefaultEnvars("TIDEMARK"),
		kong.Writers(stdout, stderr),
		kong.ConfigureHelp(kong.HelpOptions{NoExpandSubcommands: true}),
		kong.Exit(func(code int) { exited = code; panic(exited) }),
		kong.Bind(streams{stdout, stderr}),
	)
	if err != nil {
		panic(err) // the table of flags is wrong
	}
	defer func() {
		if exited >= 0 { // --help has printed and asked to end
			recover()
			code = exited
		}
	}()
	if len(args) == 0 {
		args = []string{"--help"}
	}
	command, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "tidemark: %v; see tidemark help\n", err)
		return exitUsage
	}
	if err := command.Run(parser); err != nil {
		if errors.Is(err, context.Canceled) { // which a signal alone does
			err = &exitError{exitInterrupted, errors.New("interrupted")}
		}
		fmt.Fprintf(stderr, "tidemark: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return exitCode(err)
	}
	return exitOK
}

func exitCode(err error) int {
	var exit *exitError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case errors.Is(err, store.ErrInUse):
		return exitInUse
	case errors.Is(err, store.ErrDamaged), errors.Is(err, store.ErrNewer):
		return exitDamaged
	}
	return exitFailure
}

// usageError is a value that a flag must not have.
func usageError(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format+"; see tidemark help", args...)}
}

// storeError gives an error of opening a store its exit code: damage and use by
// others have their own, anything else is about the path.
func storeError(err error) error {
	if err == nil || exitCode(err) != exitFailure {
		return err
	}
	return &exitError{exitStorePath, err}
}

// untilInterrupted returns a context that SIGTERM or SIGINT ends. A second signal
// ends the process at once.
func untilInterrupted() (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// Run prints the help of a command.
func (c *helpCommand) Run(parser *kong.Kong) error {
	_, err := parser.Parse(append(c.Command, "--help"))
	return usageError("%w", err) // a known command's --help does not return
}
