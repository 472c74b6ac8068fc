package store

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"tidemark/mutlog"
)

// SQLSTATE codes, from appendix A of PostgreSQL's documentation.
const (
	stateSerialization   = "40001"
	stateDeadlock        = "40P01"
	stateReadOnly        = "25006"
	stateUniqueViolation = "23505"
)

// sqlState returns the code of an error that the database reported, or "".
func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

// isSerialization tells whether the database gave up a transaction in favour of
// others: nothing of it was applied, and the same may be tried again.
func isSerialization(err error) bool {
	code := sqlState(err)
	return code == stateSerialization || code == stateDeadlock
}

// failure returns what an error of the database means to the caller: damage, or
// that the store is not available. Errors of mutlog, and errRaced, stay as they
// are.
func (s *Postgres) failure(err error) error {
	switch code := sqlState(err); {
	case err == nil || err == errRaced || errors.Is(err, mutlog.ErrCorrupt) || errors.Is(err, mutlog.ErrUnavailable): //nolint:errorlint // it is not wrapped
		return err
	case strings.HasPrefix(code, "XX00"): // data_corrupted, index_corrupted
		return fmt.Errorf("%w: %v", mutlog.ErrCorrupt, err)
	case code == stateReadOnly, strings.HasPrefix(code, "57P"):
		s.pool.Reset() // the other connections lead to the same server, which may no longer be the right one
	}
	return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
}

// commitFailure is failure for a transaction whose COMMIT was sent. An error that
// a server reports and lives on after has ended the transaction; of a connection
// that is gone nobody knows how far it came.
func (s *Postgres) commitFailure(err error) error {
	var pg *pgconn.PgError
	reported := errors.As(err, &pg) && cmp.Or(pg.SeverityUnlocalized, pg.Severity) == "ERROR" && pg.Code != stateCompletionUnknown
	if failed := s.failure(err); err == nil || reported || pgconn.SafeToRetry(err) { // the latter: nothing was sent
		return failed
	}
	return fmt.Errorf("%w: %v", mutlog.ErrOutcomeUnknown, err)
}

// stateCompletionUnknown says that a transaction may have been committed.
const stateCompletionUnknown = "40003"
