package admin

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// The address of a unix socket has at most 107 bytes, and a path may be longer.
// So both sides name it by a file descriptor.

// openPath is O_PATH, which package syscall does not name: it opens a place in
// the tree and not what is there.
const openPath = 0x200000

// listenIn makes a socket in dir.
func listenIn(dir string) (l *net.UnixListener, made string, err error) {
	d, err := os.OpenFile(dir, openPath|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", err
	}
	defer d.Close()
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/socket", d.Fd()), Net: "unix"})
	return l, filepath.Join(dir, "socket"), err
}

// dialSocket connects to the socket at path. It must belong to root or to the
// owner of the store: anybody else may have put it there to be told things.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	s, err := os.OpenFile(path, openPath|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if err := owned(s, strings.TrimSuffix(path, socketSuffix)); err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d", s.Fd()))
}

func owned(socket *os.File, path string) error {
	of, err := socket.Stat()
	if err != nil {
		return err
	}
	store, err := os.Stat(path)
	if err != nil {
		return err
	}
	owner := of.Sys().(*syscall.Stat_t).Uid
	if owner != 0 && owner != store.Sys().(*syscall.Stat_t).Uid {
		return fmt.Errorf("%s does not belong to the owner of the store", socket.Name())
	}
	return nil
}
