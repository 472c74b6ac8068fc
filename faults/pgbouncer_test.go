package faults_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"tidemark/store/postgrestest"
)

// TestF36PgBouncer puts PgBouncer in transaction mode, with fewer connections
// than the servers ask for, between two servers and PostgreSQL: each statement
// and each transaction may meet another connection.
func TestF36PgBouncer(t *testing.T) {
	d := newDatabase(t, postgrestest.Options{})
	// PgBouncer before 1.21 does not know of prepared statements.
	url := "postgres://postgres@" + d.bouncer(t) + "/" + d.name + "?sslmode=disable&default_query_exec_mode=cache_describe"
	f := newFleet(t, 8, 6)
	a, b := start(t, url, options{}), start(t, url, options{})
	stopA, waitA := f.run(a, newRandom(t))
	stopB, waitB := f.run(b, newRandom(t))
	f.awaitAcks(int64(size(400, 20_000)))
	stopA()
	stopB()
	waitA()
	waitB()
	if n := f.refused.Load(); n > 0 {
		t.Errorf("%d requests were answered 503", n)
	}
	b.stop()
	d.finish(t, f, a)
	counts(t, "two servers behind PgBouncer in transaction mode with 4 connections, %s", f.result())
}

// bouncer starts PgBouncer in transaction mode before the database, and returns
// where it listens.
func (d *database) bouncer(t *testing.T) (addr string) {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		if program = "/usr/sbin/pgbouncer"; !isFile(program) {
			notRun(t, "there is no pgbouncer")
		}
	}
	dir, port := d.Directory(t, "pgbouncer"), freePort(t)
	config := filepath.Join(dir, "pgbouncer.ini")
	text := fmt.Sprintf("[databases]\n* = host=%s port=%s user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %s\nunix_socket_dir =\n"+
		"auth_type = any\npool_mode = transaction\ndefault_pool_size = 4\n", d.Host(), portOf(d.TCP()), port)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	var owner syscall.Stat_t
	if err := syscall.Stat(dir, &owner); err != nil {
		t.Fatal(err)
	}
	var log buffer
	cmd := exec.Command(program, config)
	cmd.Dir, cmd.Stderr = "/", &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 { // as which it refuses to run
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("log of PgBouncer:\n%s", log.tail())
		}
	})
	addr = net.JoinHostPort("127.0.0.1", port)
	await(t, "PgBouncer", func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return addr
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
