//go:build !unix

package postgrestest

import "testing"

// URL skips the test: servers are only started on Unix.
func URL(t testing.TB) string {
	t.Skip("SKIP, not run: PostgreSQL is only started on Unix")
	return ""
}
