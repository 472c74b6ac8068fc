package store

import (
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/oklog/ulid/v2"

	"tidemark/mutlog"
)

// The steps that bring the tables from each version to the next, in order. A
// released step never changes.
//
//go:embed migrations/*.sql
var migrations embed.FS

// postgresVersion is the version of the tables that this program uses: the
// number of the last migration.
const postgresVersion = 1

// migrateTimeout bounds how long a start waits for the database and for others
// that migrate it.
const migrateTimeout = 30 * time.Second

// migrate brings the tables to postgresVersion. A table holds the version; whoever
// holds its row lock takes one step in one transaction. So any number of
// processes may start at once: one takes a step, the others wait and find it done.
// Only creating that table has nothing to lock; of those who try at once all
// but one fail, and try again.
func (s *Postgres) migrate() error {
	ctx, cancel := context.WithTimeout(context.Background(), migrateTimeout)
	defer cancel()
	wait := backoff{}
	for {
		version, err := s.step(ctx)
		switch {
		case err == nil && version == postgresVersion:
			return nil
		case err == nil:
			continue
		case errors.Is(err, ErrNewer):
			return err
		case !isMigrationRace(err):
			return fmt.Errorf("cannot be opened: %s", strings.Join(strings.Fields(err.Error()), " "))
		}
		if err := wait.next(ctx); err != nil {
			return fmt.Errorf("cannot be opened: %w", err)
		}
	}
}

// isMigrationRace tells whether a step failed because another process took it.
func isMigrationRace(err error) bool {
	switch sqlState(err) {
	case stateSerialization, stateDeadlock, stateUniqueViolation,
		"42P06", "42P07", // the schema, or a table, exists
		"XX000": // "tuple concurrently updated" of a catalogue
		return true
	}
	return false
}

// step takes the next step, if there is one, and returns the version after it.
func (s *Postgres) step(ctx context.Context) (version int, err error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return 0, err
	}
	defer conn.Release()
	if version, err = s.version(ctx, conn.Conn()); err != nil || version >= postgresVersion {
		return version, err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	if version == 0 {
		if _, err := tx.Exec(ctx, createVersion, pgx.QueryExecModeSimpleProtocol); err != nil {
			return 0, err
		}
		if _, err := tx.Exec(ctx, insertVersion, ulid.MustNew(ulid.Now(), rand.Reader).String()); err != nil {
			return 0, err
		}
	}
	if err := tx.QueryRow(ctx, `SELECT version FROM tidemark.version FOR UPDATE`).Scan(&version); err != nil {
		return 0, err
	}
	if version >= postgresVersion { // another process was faster
		return version, nil
	}
	version++
	sql, err := migrations.ReadFile(fmt.Sprintf("migrations/%04d.sql", version))
	if err != nil {
		return 0, err
	}
	var engine string
	if err := tx.QueryRow(ctx, `SELECT version()`).Scan(&engine); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, spoken(string(sql), engine), pgx.QueryExecModeSimpleProtocol); err != nil {
		return 0, err
	}
	if _, err := tx.Exec(ctx, `UPDATE tidemark.version SET version = $1`, version); err != nil {
		return 0, err
	}
	return version, tx.Commit(ctx)
}

// spoken returns a migration as an engine understands it, which says of itself what
// SELECT version() gives. CockroachDB refuses columns with a collation that is no
// language, and compares all others by their bytes anyway.
func spoken(sql, engine string) string {
	if strings.HasPrefix(engine, "CockroachDB") {
		return strings.ReplaceAll(sql, ` COLLATE "C"`, "")
	}
	return sql
}

// createVersion begins a store: version 0 has no other table.
const createVersion = `
CREATE SCHEMA IF NOT EXISTS tidemark;
CREATE TABLE IF NOT EXISTS tidemark.version (
    single  boolean NOT NULL DEFAULT true CHECK (single), -- there is one row
    version integer NOT NULL,
    id      text    NOT NULL,
    PRIMARY KEY (single)
);`

const insertVersion = `INSERT INTO tidemark.version (version, id) VALUES (0, $1) ON CONFLICT DO NOTHING`

// suits tells why a database cannot keep a store.
func suits(ctx context.Context, conn *pgx.Conn) error {
	var encoding string
	var commit, sync *string // unknown to some engines
	err := conn.QueryRow(ctx, `SELECT current_setting('server_encoding'), current_setting('synchronous_commit', true), current_setting('fsync', true)`).Scan(&encoding, &commit, &sync)
	switch {
	case err != nil:
		return err
	case encoding != "UTF8":
		return fmt.Errorf("its encoding is %s, and must be UTF8", encoding)
	case commit != nil && *commit == "off" && sync != nil && *sync == "on":
		// Who turns off fsync does not mind to lose the whole database.
		return errors.New("synchronous_commit is off: it could lose what was acknowledged; ALTER ROLE … SET synchronous_commit = on")
	}
	return nil
}

// version returns the version of the tables, 0 if there are none. A role that may
// not create tables needs nothing more where there are.
func (s *Postgres) version(ctx context.Context, conn *pgx.Conn) (version int, err error) {
	if err := suits(ctx, conn); err != nil {
		return 0, err
	}
	var found bool
	err = conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM information_schema.tables WHERE table_schema = 'tidemark' AND table_name = 'version')`).Scan(&found)
	if err != nil || !found {
		return 0, err
	}
	err = conn.QueryRow(ctx, `SELECT version FROM tidemark.version`).Scan(&version)
	if version > postgresVersion {
		err = fmt.Errorf("%w: the version of its tables is %d, and this one knows %d", ErrNewer, version, postgresVersion)
	}
	return version, err
}

var _ mutlog.Store = (*Postgres)(nil)
