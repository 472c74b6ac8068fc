// Package postgrestest starts throw-away PostgreSQL servers for tests, from the
// binaries that the machine has: those in PATH, or of Debian's newest version.
// No program imports it.
//
// Most tests want a database that is empty and nobody else's:
//
//	s, err := store.Open(postgrestest.URL(t), …)
//
// All of a test process are databases of one server, which is started for the
// first. Tests that break the server start one of their own with Start.
//
// Without PostgreSQL such tests skip and say why; with CI=true in the
// environment they fail. As root the server runs as the user postgres, since
// PostgreSQL refuses root.
//
// A server ends with the test process, however that ends: a watchdog stops it
// and removes its files once the pipe that the process holds is closed.
//
// TIDEMARK_TEST_POSTGRES may name a server that is running already, as a
// postgres:// URL of a user who may create databases: URL then makes its
// databases there. So the suites run on an engine that speaks PostgreSQL's
// protocol, before it is trusted with data.
package postgrestest
