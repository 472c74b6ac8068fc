package server

import (
	"github.com/labstack/echo/v4"

	"tidemark/auth"
	"tidemark/mutlog"
)

// Bounds of what a request may say beside its body.
const (
	maxParameters = 100  // of a query
	maxPageSize   = 1000 // mutations
	pageSize      = 100  // mutations on a numbered page that names no limit
	maxNameBytes  = 255  // of X-User-Id, x-client-id and Idempotency-Key
)

// limits answers GET /v1/sync/limits: what a client must know to make batches
// that are not refused.
func (s *Server) limits(c echo.Context, _ *auth.Principal) error {
	return write(c, func(a *answer) error {
		a.text(`{"success":true,"data":`)
		next := "{"
		for _, limit := range []struct {
			name  string
			value int64
		}{
			{"maxMutations", int64(s.Limits.Mutations)},
			{"maxBodyBytes", s.MaxBodyBytes},
			{"maxDataBytes", int64(s.Limits.DataBytes)},
			{"maxNesting", mutlog.MaxNesting},
			{"maxResourceBytes", mutlog.MaxResourceBytes},
			{"maxResourceIdBytes", mutlog.MaxResourceIDBytes},
			{"maxIdempotencyKeyBytes", maxNameBytes},
			{"maxClientIdBytes", maxNameBytes},
			{"maxPageSize", maxPageSize},
			{"pageSize", pageSize},
			{"maxQueryParameters", maxParameters},
			{"maxHeaderBytes", int64(s.MaxHeaderBytes)},
		} {
			a.text(next + `"` + limit.name + `":`)
			a.number(limit.value)
			next = ","
		}
		a.text("}}")
		return nil
	})
}
