//go:build !linux

package admin

import (
	"context"
	"net"
	"path/filepath"
)

// listenIn makes a socket in dir.
func listenIn(dir string) (l *net.UnixListener, made string, err error) {
	made = filepath.Join(dir, "socket")
	l, err = net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	return l, made, err
}

// dialSocket connects to the socket at path.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", path)
}
