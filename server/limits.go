package server

import (
	"maps"
	"slices"
	"strconv"

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
	if err := legible(c.Request()); err != nil {
		return err
	}
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
			{"maxStreamsPerUser", int64(s.MaxStreamsPerUser)},
			{"maxWaitSeconds", maxWait},
			{"quotaBytes", s.Limits.Quota.Bytes},
			{"quotaResources", s.Limits.Quota.Resources},
		} {
			if limit.value == 0 {
				continue // there is none
			}
			a.text(next + `"` + limit.name + `":`)
			a.number(limit.value)
			next = ","
		}
		if kinds := s.Resources(); kinds != nil {
			a.text(`,"resources":`)
			a.kinds(kinds)
		}
		a.text("}}")
		return nil
	})
}

// kinds appends what the configuration says of each kind of resource.
func (a *answer) kinds(kinds mutlog.Kinds) {
	next := "{"
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		a.text(next + `"` + name + `":`)
		a.kind(kinds[name])
		next = ","
	}
	a.text("}")
}

// kind appends what a client must know of one kind; what is not bounded or asked
// for is left out.
func (a *answer) kind(k *mutlog.Kind) {
	a.text(`{"schema":`)
	a.buf = strconv.AppendBool(a.buf, k.Schema != nil)
	if k.Scope != "" {
		a.text(`,"scope":`)
		a.buf = mutlog.AppendQuoted(a.buf, k.Scope)
	}
	for i, field := range k.Key {
		a.text([]string{`,"key":[`, `,`}[min(i, 1)])
		a.buf = mutlog.AppendQuoted(a.buf, field)
	}
	if len(k.Key) > 0 {
		a.text("]")
	}
	if k.DataBytes > 0 {
		a.text(`,"maxDataBytes":`)
		a.number(int64(k.DataBytes))
	}
	if k.Resources > 0 {
		a.text(`,"maxResources":`)
		a.number(k.Resources)
	}
	a.text("}")
}
