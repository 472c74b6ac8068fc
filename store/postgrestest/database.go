//go:build unix

package postgrestest

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// shared is the server of the test process.
var shared = sync.OnceValues(func() (*Cluster, error) {
	found, err := findTools()
	if err != nil {
		return nil, missing{err}
	}
	return start(found, Options{})
})

// missing says that the machine has no PostgreSQL.
type missing struct{ error }

// URL returns the URL of a fresh empty database, which is dropped after the
// test, or skips the test if the machine has no PostgreSQL.
func URL(t testing.TB) string {
	t.Helper()
	if server := os.Getenv("TIDEMARK_TEST_POSTGRES"); server != "" {
		return foreign(t, server)
	}
	c, err := shared()
	if reason, ok := err.(missing); ok {
		skip(t, reason)
	}
	if err != nil {
		t.Fatalf("PostgreSQL does not start: %v", err)
	}
	return c.URL(c.Database(t))
}

// Database makes an empty database, which is dropped after the test, and
// returns its name. It sorts text as people do, not by bytes, so that what
// relies on an order without saying which is noticed.
func (c *Cluster) Database(t testing.TB) string {
	t.Helper()
	name := fmt.Sprint("test", c.made.Add(1))
	c.Exec(t, "postgres", "CREATE DATABASE "+name+" TEMPLATE template0"+c.collation())
	t.Cleanup(func() {
		c.Query("postgres", "DROP DATABASE "+name+" WITH (FORCE)") // the server may be gone
	})
	return name
}

// collation is the clause for a database that sorts as people do, where the
// server can.
func (c *Cluster) collation() string {
	const clause = " LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"
	can, err := c.Query("postgres", "SELECT current_setting('server_version_num')::int >= 150000 AND EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i')")
	if err != nil || can != "t" {
		return ""
	}
	return clause
}

// Exec runs statements in a database, separated by semicolons, and returns what
// they print: a row a line, its columns separated by |.
func (c *Cluster) Exec(t testing.TB, database, statements string) string {
	t.Helper()
	out, err := c.Query(database, statements)
	if err != nil {
		t.Fatalf("%v in %s", err, statements)
	}
	return out
}

// Query is Exec for where there is no test to fail.
func (c *Cluster) Query(database, statements string) (string, error) {
	return psql(c.tools, c.URL(database), statements)
}

// psql runs statements in the database of a URL.
func psql(found *tools, database, statements string) (string, error) {
	// -X: nobody's own settings count.
	out, err := output(found.command("psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", statements))
	return strings.TrimSpace(out), err
}

// foreign makes a database on a server that is not ours.
func foreign(t testing.TB, server string) string {
	t.Helper()
	found, err := findTools()
	if err != nil {
		skip(t, err) // psql is missing, too
	}
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal("TIDEMARK_TEST_POSTGRES: no URL")
	}
	name := fmt.Sprintf("tidemark_test_%d_%d", os.Getpid(), time.Now().UnixNano())
	if _, err := psql(found, server, "CREATE DATABASE "+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { psql(found, server, "DROP DATABASE "+name) })
	u.Path = "/" + name
	return u.String()
}
