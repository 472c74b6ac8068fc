package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"tidemark/mutlog"
	"tidemark/store"
)

// Run verifies a store and prints what is wrong with it, a line each.
func (c *checkCommand) Run(io streams) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()

	s, err := store.OpenBolt(c.Store, store.BoltOptions{ReadOnly: true})
	switch {
	case errors.Is(err, store.ErrInUse):
		return fmt.Errorf("%w; stop the server, or check a copy", err)
	case errors.Is(err, store.ErrDamaged):
		fmt.Fprintln(io.out, err)
		return &exitError{exitFailure, fmt.Errorf("%s is unsound", c.Store)}
	case err != nil:
		return storeError(err)
	}
	defer s.Close()

	problems := 0
	err = mutlog.Check(ctx, s, func(problem string) {
		problems++
		fmt.Fprintln(io.out, problem)
	})
	if err != nil {
		fmt.Fprintln(io.out, err)
		problems++
	}
	if problems > 0 {
		return &exitError{exitFailure, fmt.Errorf("%s is unsound: %d problems", c.Store, problems)}
	}
	fmt.Fprintf(io.out, "%s is sound\n", c.Store)
	return nil
}
