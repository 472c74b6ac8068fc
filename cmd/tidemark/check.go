package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strings"

	"tidemark/mutlog"
	"tidemark/store"
)

// How much of a store is verified.
const (
	checkOff   = "off"
	checkQuick = "quick"     // what opening verifies: in no time, whatever the size of the store
	checkSums  = "checksums" // and all pages and checksums: about half a second for a million mutations
	checkFull  = "full"      // and every rule of the log: ten times that
	checkAuto  = "auto"      // quick for a large store that was closed, else full
)

// smallStore is the size in bytes up to which a store is verified in full at each
// start: that takes a moment.
const smallStore = 8 << 20

// maxProblems is how many problems end a check: in pages that stand in a circle
// there is no end to them.
const maxProblems = 100

// maxProblemBytes bounds the line of a problem.
const maxProblemBytes = 500

// Run verifies a store and prints what is wrong with it, a line each.
func (c *checkCommand) Run(io streams) error {
	ctx, stop := untilInterrupted()
	defer stop()
	if c.Worker || store.IsDatabase(c.Store) { // nothing in a database ends the process that reads it
		return c.verify(ctx, io)
	}
	stderr, _ := io.err.(*os.File)
	code, said, err := checkApart(ctx, c.Store, c.Mode, io.out, stderr)
	switch {
	case err != nil:
		return err
	case code == exitOK:
		return nil
	case code == exitInUse:
		said += "; stop the server first, or check a backup"
	}
	return &exitError{code, errors.New(said)}
}

// checkApart verifies a store in a process of its own, since damage can end the
// process that reads it. It returns the exit code of a check and what it said
// on stderr. How far it has come goes to progress, unless that is nil.
func checkApart(ctx context.Context, path, mode string, out io.Writer, progress *os.File) (code int, said string, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, "", err
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, self, "check", "--worker", "--store="+path, "--mode="+mode)
	cmd.Stdout, cmd.Stderr = out, &stderr
	if progress != nil {
		cmd.Args = append(cmd.Args, "--progress")
		cmd.ExtraFiles = []*os.File{progress} // as progressFile
	}
	cmd.SysProcAttr = endWithParent()
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, "", ctx.Err()
	case err == nil:
		return exitOK, "", nil
	case !errors.As(err, &exit):
		return 0, "", err
	}
	switch code := exit.ExitCode(); code {
	case exitFailure, exitUsage, exitDamaged, exitStorePath, exitInUse:
		_, said, _ := bytes.Cut(bytes.TrimSpace(stderr.Bytes()), []byte("tidemark: "))
		return code, string(said), nil
	case exitInterrupted: // from the terminal, as this process is about to be
		return 0, "", context.Canceled
	case -1:
		return 0, "", fmt.Errorf("the check of %s did not end: %w", path, err)
	}
	fmt.Fprintf(out, "store %s cannot be read to its end\n", path)
	return exitFailure, path + " is unsound: a part of it cannot be read", nil
}

// verify is the check itself.
func (c *checkCommand) verify(ctx context.Context, io streams) error {
	debug.SetMaxStack(16 << 20) // pages in a circle would fill a large one
	name := store.Name(c.Store)
	s, mode, err := c.open()
	switch {
	case errors.Is(err, store.ErrDamaged):
		fmt.Fprintln(io.out, err)
		return &exitError{exitFailure, fmt.Errorf("%s is unsound", name)}
	case err != nil:
		return storeError(err)
	}
	defer s.Close()
	problems := 0
	report := func(problem string) {
		if problems++; problems <= maxProblems {
			fmt.Fprintln(io.out, clipped(problem))
			return
		}
		fmt.Fprintf(io.err, "tidemark: %s is unsound: %d problems and more\n", name, maxProblems)
		os.Exit(exitFailure)
	}
	switch mode {
	case checkFull:
		counted, end := c.counted(ctx, s, io)
		err = mutlog.Check(ctx, counted, report)
		end()
	case checkSums:
		err = s.Check(ctx, report)
	}
	if err != nil {
		report(err.Error())
	}
	switch {
	case problems > 0:
		return &exitError{exitFailure, fmt.Errorf("%s is unsound: %d problems", name, problems)}
	case mode == checkFull:
		fmt.Fprintf(io.out, "%s is sound\n", name)
	default:
		fmt.Fprintf(io.out, "%s is sound as far as a check of the mode %s tells\n", name, mode)
	}
	return nil
}

// clipped returns the start of a problem that is long: bbolt prints whole keys,
// and a key of damaged pages can be as large as the file.
func clipped(problem string) string {
	if len(problem) <= maxProblemBytes {
		return problem
	}
	return strings.ToValidUTF8(problem[:maxProblemBytes], "") + "…"
}

// open opens the store and returns what to verify of it.
func (c *checkCommand) open() (store.Store, string, error) {
	if store.IsDatabase(c.Store) {
		s, err := store.Open(c.Store, store.BoltOptions{})
		if c.Mode == checkAuto {
			return s, checkFull, err
		}
		return s, c.Mode, err
	}
	s, err := store.OpenBolt(c.Store, store.BoltOptions{ReadOnly: true})
	if err != nil {
		return nil, "", err
	}
	mode, err := c.mode(s)
	if err != nil {
		s.Close()
	}
	return s, mode, err
}

// mode returns what to verify of s.
func (c *checkCommand) mode(s *store.Bolt) (string, error) {
	size, err := s.Size()
	switch {
	case err != nil || c.Mode != checkAuto:
		return c.Mode, err
	case size > smallStore && s.Clean():
		return checkQuick, nil
	}
	return checkFull, nil
}
