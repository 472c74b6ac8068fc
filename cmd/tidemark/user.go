package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"tidemark/admin"
	"tidemark/backup"
	"tidemark/mutlog"
	"tidemark/store"
)

// Run prints what is known of a user.
func (c *userShowCommand) Run(io streams) error {
	return c.administer(false, func(ctx context.Context, a *admin.Client) error {
		info, err := a.User(ctx, mutlog.User(c.User))
		if err != nil {
			return err
		}
		if c.JSON {
			e := json.NewEncoder(io.out)
			e.SetIndent("", "  ")
			return e.Encode(info)
		}
		printLog(io.out, info)
		if store.IsDatabase(c.Store) {
			defer fmt.Fprintln(io.out, "what servers have seen in the last five minutes may be missing; each tells it on its --admin-addr")
		}
		if len(info.Devices) == 0 {
			fmt.Fprintln(io.out, "no device was seen")
			return nil
		}
		return printDevices(io.out, info.Devices)
	})
}

func printLog(w io.Writer, info *admin.UserInfo) {
	if info.Head == mutlog.Beginning {
		fmt.Fprintf(w, "%s has no log\n", info.User)
	} else {
		fmt.Fprintf(w, "%s: the head of the log is %d, of %s\n", info.User, info.Head, stamp(info.Head))
	}
	if info.Held {
		fmt.Fprintln(w, "an import has not ended; until then the user is refused")
	}
	for _, gap := range info.Bounds.Gaps {
		fmt.Fprintf(w, "lost: what was later than %d and not later than %d\n", gap.After, gap.Until)
	}
	if info.Bounds.Horizon > 0 {
		fmt.Fprintf(w, "dropped: tombstones up to %d\n", info.Bounds.Horizon)
	}
}

func printDevices(w io.Writer, devices []admin.DeviceInfo) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CLIENT\tLAST SEEN\tCURSOR\tBEHIND\tPUSHES\tREPLAYS\tPULLS\tREFUSALS\tLAST REFUSAL")
	for _, d := range devices {
		refusal := "none"
		if r := d.LastRefusal; r != nil {
			refusal = fmt.Sprintf("%s %d %s %s at cursor %d", r.At.Format(time.RFC3339), r.Status, r.Code, r.Reason, r.Cursor)
		}
		behind := fmt.Sprint(d.Behind)
		switch {
		case d.MustPull != "":
			behind = string(d.MustPull)
		case d.Behind == admin.MaxBehind:
			behind += " or more"
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%d\t%d\t%d\t%d\t%s\n", cmp.Or(d.Client, "(no x-client-id)"),
			d.LastSeen.Format(time.RFC3339), d.Cursor, behind, d.Pushes, d.Replays, d.Pulls, d.Refusals, refusal)
	}
	return t.Flush()
}

func stamp(t mutlog.Timestamp) string { return time.UnixMilli(int64(t)).UTC().Format(time.RFC3339) }

// Run writes the log of a user to a file, which appears once it is complete.
func (c *userExportCommand) Run(out streams) error {
	return c.administer(false, func(ctx context.Context, a *admin.Client) error {
		if c.File == "-" {
			return a.Export(ctx, mutlog.User(c.User), out.out, func(string, int64, int64) {})
		}
		if _, err := os.Lstat(c.File); err == nil {
			return fmt.Errorf("%s exists; an export never replaces a file", c.File)
		}
		part, err := os.CreateTemp(filepath.Dir(c.File), filepath.Base(c.File)+".tmp-*") // with mode 0600
		if err != nil {
			return err
		}
		defer os.Remove(part.Name())
		defer part.Close()
		steps := newSteps(out.err, "batches")
		defer steps.end()
		if err := a.Export(ctx, mutlog.User(c.User), part, steps.report); err != nil {
			return err
		}
		if err := errors.Join(part.Sync(), part.Close()); err != nil {
			return err
		}
		return backup.Appear(part.Name(), c.File)
	})
}

// Run reads an export into the log of a user.
func (c *userImportCommand) Run(out streams) error {
	in, size := io.Reader(os.Stdin), int64(0)
	if c.File != "-" {
		f, err := os.Open(c.File) // first, because the store may be made
		if err != nil {
			return err
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil {
			size = info.Size()
		}
		in = f
	}
	return c.administer(true, func(ctx context.Context, a *admin.Client) error {
		meter := newMeter(out.err, "importing", inBytes)
		defer meter.end()
		sum, err := a.Import(ctx, mutlog.User(c.As), &countingReader{in, meter, 0, size})
		if err != nil {
			return err
		}
		meter.end()
		fmt.Fprintf(out.out, "the log of %s has %d batches, %d mutations and the head %d\n", sum.User, sum.Batches, sum.Mutations, sum.Head)
		return nil
	})
}

// countingReader tells a meter how many bytes of size it has read.
type countingReader struct {
	io.Reader
	meter      *meter
	done, size int64
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.done += int64(n)
	r.meter.report(r.done, r.size)
	return n, err
}

// Run erases what the store has of a user.
func (c *userEraseCommand) Run(out streams) error {
	if !c.Yes {
		return usageError("all that the store has of %s would be gone for good; --yes says that you mean it", c.User)
	}
	return c.administer(false, func(ctx context.Context, a *admin.Client) error {
		steps := newSteps(out.err, inMutations)
		defer steps.end()
		erased, err := a.Erase(ctx, mutlog.User(c.User), steps.report)
		if err != nil {
			return err
		}
		steps.end()
		rest := "compact removes what free pages"
		if store.IsDatabase(c.Store) {
			rest = "VACUUM FULL removes what free space"
		}
		fmt.Fprintf(out.out, "erased %d mutations and %d tokens of %s; %s may still hold of them\n", erased.Mutations, erased.Tokens, c.User, rest)
		return nil
	})
}
