//go:build unix

package postgrestest

import (
	"os"
	"path/filepath"
	"testing"
)

// Standby starts a replica of the server, which follows it and ends with the
// test. Settings are added to those of the server.
func (c *Cluster) Standby(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	s, err := c.standby(settings)
	if err != nil {
		t.Fatalf("the replica does not start: %v", err)
	}
	t.Cleanup(s.Close)
	return s
}

func (c *Cluster) standby(settings []string) (*Cluster, error) {
	s := &Cluster{tools: c.tools, port: c.port, stopped: make(chan struct{})}
	if err := s.makeDir(filepath.Dir(c.dir)); err != nil {
		return nil, err
	}
	if err := s.watch(); err != nil {
		os.RemoveAll(s.dir)
		return nil, err
	}
	err := s.run("pg_basebackup", "-D", s.data(), "-d", c.URL("postgres"), "-R", "-X", "stream", "--checkpoint=fast", "--no-sync")
	if err == nil {
		err = s.Configure(append([]string{"unix_socket_directories = '" + s.dir + "'", "listen_addresses = ''"}, settings...)...)
	}
	if err == nil {
		err = s.start()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Host is the directory of the server's socket: a host in a URL.
func (c *Cluster) Host() string { return c.dir }
