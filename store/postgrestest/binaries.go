//go:build unix

package postgrestest

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// tools are the programs of PostgreSQL, and who may run them.
type tools struct {
	dir        string // of the programs
	credential *syscall.Credential
}

// findTools returns the tools of this machine, or why there are none.
func findTools() (*tools, error) {
	dir, err := findBinaries()
	if err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return &tools{dir: dir}, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	return &tools{dir, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
}

// findBinaries returns the directory of initdb, which Debian leaves out of PATH.
func findBinaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", errors.New("no PostgreSQL: initdb is neither in PATH nor in /usr/lib/postgresql/*/bin")
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(version(a), version(b)) })
	return filepath.Dir(newest), nil
}

// command prepares a program of PostgreSQL, or another that acts on its files.
func (o *tools) command(name string, args ...string) *exec.Cmd {
	if path := filepath.Join(o.dir, name); name == filepath.Base(name) && exists(path) {
		name = path
	}
	cmd := exec.Command(name, args...)
	cmd.Dir = "/" // the user postgres may not be allowed into the directory of the test
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PGCONNECT_TIMEOUT=10")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: o.credential}
	return cmd
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// skip skips the test for want of PostgreSQL: where CI=true, that is a failure.
func skip(t testing.TB, reason error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot run: %v", reason)
	}
	fmt.Fprintf(os.Stderr, "SKIP %s, not run: %v\n", t.Name(), reason)
	t.Skip(reason)
}
