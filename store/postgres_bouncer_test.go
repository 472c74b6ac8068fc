//go:build unix

package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store/postgrestest"
)

// Through a pool in transaction mode, whose two connections are shared by all, the
// store does what it does without, and who follows is told to look.
func TestThroughPgBouncer(t *testing.T) {
	direct := postgrestest.URL(t)
	pooled := pgbouncer(t, direct)
	s, reference := opened(t, pooled+"&default_query_exec_mode=cache_describe"), mutlogtest.NewStore()
	_, missed := following(t, s)
	seed := mutlogtest.Seed(t)
	var wg sync.WaitGroup
	for u := range 8 {
		user := mutlog.User(fmt.Sprint("user ", u))
		wg.Go(func() {
			c := &comparison{t: t, stores: [2]mutlog.Store{reference, s}, user: user, rnd: rand.New(rand.NewPCG(seed, uint64(u)))}
			c.writer = mutlogtest.Writer{Rand: c.rnd, Resources: 30}
			c.history = newHistory(c.rnd, s, reference, user)
			for range 20 {
				if err := c.history.both(t.Context(), c.history.push(c.writer.Batch(10))); err != nil {
					t.Errorf("%s: %v", user, err)
					return
				}
				if !c.sameReads() {
					return
				}
			}
		})
	}
	wg.Wait()
	mutlogtest.CheckSound(t, s)
	eventually(t, "who follows is told to look", func() bool { return missed.Load() >= 2 })
}

// pgbouncer starts a PgBouncer in front of the database at address and returns
// the URL through it.
func pgbouncer(t *testing.T, address string) string {
	t.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // not in everybody's PATH
	}
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("cannot run: %v", err)
		}
		fmt.Fprintf(os.Stderr, "SKIP %s, not run: %v\n", t.Name(), err)
		t.Skip(err)
	}
	config := must[*pgx.ConnConfig](t)(pgx.ParseConfig(address))
	dir := must[string](t)(os.MkdirTemp("", "pgbouncer")) // the user postgres can reach it
	t.Cleanup(func() { os.RemoveAll(dir) })
	port := freePort(t)
	file := filepath.Join(dir, "pgbouncer.ini")
	err = os.WriteFile(file, fmt.Appendf(nil, `
[databases]
%s = host=%s port=%d user=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
`, config.Database, config.Host, config.Port, config.User, port), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, file)
	cmd.Dir = "/"
	if os.Geteuid() == 0 { // as which it does not run
		u := must[*user.User](t)(user.Lookup("postgres"))
		uid, gid := must[int](t)(strconv.Atoi(u.Uid)), must[int](t)(strconv.Atoi(u.Gid))
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	through := fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", url.PathEscape(config.User), port, url.PathEscape(config.Database))
	eventually(t, "PgBouncer answers", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, through)
		if err != nil {
			return false
		}
		return conn.Close(ctx) == nil
	})
	return through
}

func freePort(t *testing.T) int {
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
