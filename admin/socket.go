package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// SocketPath is where the server that has the store at path can be asked. A
// store has one socket, whichever symbolic links lead to it.
func SocketPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return path + socketSuffix
}

const socketSuffix = ".sock"

// Listen makes the socket of the store at path, for its owner alone. Only who
// holds the lock of the store may call it: it replaces what a server that was
// killed has left. The socket is made in a directory that nobody else can enter
// and appears in its place with its permissions.
func Listen(path string) (net.Listener, error) {
	socket := SocketPath(path)
	if info, err := os.Lstat(socket); err == nil && info.Mode().Type() != fs.ModeSocket {
		return nil, fmt.Errorf("%s is in the way of the control socket", socket)
	}
	dir, err := os.MkdirTemp(filepath.Dir(socket), ".tidemark-*") // with mode 0700
	if err != nil {
		return nil, err
	}
	defer os.Remove(dir)
	l, made, err := listenIn(dir)
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, 0o600), os.Rename(made, socket)); err != nil {
		os.Remove(made)
		l.Close()
		return nil, err
	}
	return &socketListener{l, socket}, nil
}

// socketListener removes its socket when it is closed.
type socketListener struct {
	*net.UnixListener
	path string
}

func (l *socketListener) Close() error {
	err := l.UnixListener.Close()
	if err == nil {
		os.Remove(l.path)
	}
	return err
}

// Serve answers requests on l with h until ctx is done, and then lets those under
// way finish for a while.
func Serve(ctx context.Context, l net.Listener, h http.Handler) error {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if s.Shutdown(drain) != nil {
		s.Close()
	}
	<-served
	return nil
}

const drainTimeout = 5 * time.Second

// isNobody tells whether err says that no server is there.
func isNobody(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// exists fails if there is no store at path.
func exists(path string) error {
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("opening store: %w", err)
	}
	return nil
}
