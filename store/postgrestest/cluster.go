//go:build unix

package postgrestest

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// Options say how a server is set up.
type Options struct {
	// NoSync leaves out fsync: faster on a disk, and not durable.
	NoSync bool

	// TCP makes the server listen on a loopback port beside its unix socket,
	// for proxies.
	TCP bool

	// Dir is where the files of the server are made, in a directory of their
	// own that its user must be able to reach; "" takes memory if there is
	// enough, else the directory for temporary files.
	Dir string

	// Settings are added to postgresql.conf, as "name = value".
	Settings []string
}

// Cluster is a running PostgreSQL server of a test. The user postgres is its
// superuser and needs no password.
type Cluster struct {
	tools *tools
	dir   string // of all its files; the socket is there, too
	port  int
	tcp   bool

	watchdog *os.File // closed, it ends the server
	stopped  chan struct{}
	made     atomic.Int64 // databases
}

// Start starts a server, which ends with the test, or skips the test if the
// machine has no PostgreSQL.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	found, err := findTools()
	if err != nil {
		skip(t, err)
	}
	c, err := start(found, o)
	if err != nil {
		t.Fatalf("PostgreSQL does not start: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

// New starts a server for what is no test, such as a comparison.
func New(o Options) (*Cluster, error) {
	found, err := findTools()
	if err != nil {
		return nil, err
	}
	return start(found, o)
}

func start(found *tools, o Options) (*Cluster, error) {
	c := &Cluster{tools: found, tcp: o.TCP, port: 5432, stopped: make(chan struct{})}
	if err := c.makeDir(o.Dir); err != nil {
		return nil, err
	}
	if err := c.watch(); err != nil {
		os.RemoveAll(c.dir)
		return nil, err
	}
	// initdb may leave its files unsynced: no test cuts the power of the machine.
	if err := c.run("initdb", "-D", c.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.configure(o); err != nil {
		c.Close()
		return nil, err
	}
	if err := c.start(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// makeDir makes the directory of the server.
func (c *Cluster) makeDir(parent string) (err error) {
	if parent == "" {
		parent = fastDir()
	}
	if c.dir, err = os.MkdirTemp(parent, "tidemark-postgres-"); err != nil {
		return err
	}
	return c.own(c.dir)
}

// own gives a directory to the user of the server.
func (c *Cluster) own(dir string) error {
	if u := c.tools.credential; u != nil {
		return os.Chown(dir, int(u.Uid), int(u.Gid))
	}
	return nil
}

// Directory makes a directory that the server can use, beside its data.
func (c *Cluster) Directory(t testing.TB, name string) string {
	t.Helper()
	dir := filepath.Join(c.dir, name)
	if err := errors.Join(os.Mkdir(dir, 0o700), c.own(dir)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// fastDir is a directory in memory, where syncs cost nothing, if there is one
// with room for a server.
func fastDir() string {
	var fs syscall.Statfs_t
	if err := syscall.Statfs("/dev/shm", &fs); err == nil && int64(fs.Bavail)*int64(fs.Bsize) > 2<<30 {
		return "/dev/shm"
	}
	return os.TempDir()
}

// watch starts the watchdog. It is a process of its own in a session of its own,
// so that whatever ends the test process leaves it be: then its standard input
// ends, and with it the server, which may have been stopped with SIGSTOP.
func (c *Cluster) watch() error {
	const script = `
read -r _
[ -s "$1/data/postmaster.pid" ] && kill -CONT "$(head -n 1 "$1/data/postmaster.pid")"
"$2" -D "$1/data" -m immediate -t 30 stop
rm -rf "$1"`
	watchdog := c.tools.command("/bin/sh", "-c", script, "sh", c.dir, filepath.Join(c.tools.dir, "pg_ctl"))
	watchdog.SysProcAttr.Setsid = true
	in, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	watchdog.Stdin = in
	if err := watchdog.Start(); err != nil {
		out.Close()
		return err
	}
	c.watchdog = out
	go func() {
		watchdog.Wait()
		close(c.stopped)
	}()
	return nil
}

// Close ends the server and removes its files.
func (c *Cluster) Close() {
	c.watchdog.Close()
	<-c.stopped
}

// configure writes the settings of the server. Syncs stay as they are in
// service, unless told otherwise: durability is what is tested.
func (c *Cluster) configure(o Options) error {
	settings := []string{
		"unix_socket_directories = '" + c.dir + "'",
		"listen_addresses = ''",
		"max_connections = 200",
		"shared_buffers = 64MB",
		"log_line_prefix = '%m [%p] %d '",
	}
	if o.NoSync {
		settings = append(settings, "fsync = off", "synchronous_commit = off", "full_page_writes = off")
	}
	if o.TCP {
		var err error
		if c.port, err = freePort(); err != nil {
			return err
		}
		settings = append(settings, "listen_addresses = '127.0.0.1'")
	}
	settings = append(settings, fmt.Sprint("port = ", c.port))
	return c.Configure(slices.Concat(settings, o.Settings)...)
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (c *Cluster) data() string { return filepath.Join(c.dir, "data") }

func (c *Cluster) logFile() string { return filepath.Join(c.dir, "log") }

// URL returns the URL of a database, over the unix socket.
func (c *Cluster) URL(database string) string {
	q := url.Values{"host": {c.dir}, "port": {strconv.Itoa(c.port)}, "user": {"postgres"}}
	return "postgres:///" + url.PathEscape(database) + "?" + q.Encode()
}

// TCP returns the host:port that a server started with Options.TCP listens on.
func (c *Cluster) TCP() string {
	if !c.tcp {
		panic("the server was not started with Options.TCP")
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(c.port))
}

// TCPURL returns the URL of a database at another address, which is TCP or a
// proxy of it.
func (c *Cluster) TCPURL(address, database string) string {
	return "postgres://postgres@" + address + "/" + url.PathEscape(database) + "?sslmode=disable"
}

// Log returns the end of what the server has logged.
func (c *Cluster) Log() string {
	text, err := os.ReadFile(c.logFile())
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-8000):])
}

// run runs a program of PostgreSQL to its end.
func (c *Cluster) run(name string, args ...string) error {
	_, err := output(c.tools.command(name, args...))
	return err
}

// output returns what cmd prints; what it complains of becomes its error.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		err = fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}
