package store

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
)

// errStandby is why a standby is not used: a pull might miss what a push before
// it was told to have done, and of two pulls the second know less.
var errStandby = errors.New("it is a standby, and may lag behind its primary")

// onlyPrimary makes config pass over servers that follow another: of several
// hosts the next is tried. PostgreSQL tells by itself, from 14 on, so this costs
// no round trip; engines that know of no standbys say nothing.
func onlyPrimary(config *pgconn.Config) {
	next := config.ValidateConnect
	config.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		if conn.ParameterStatus("in_hot_standby") == "on" {
			return errStandby
		}
		if next != nil {
			return next(ctx, conn)
		}
		return nil
	}
}
