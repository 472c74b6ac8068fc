package server

import (
	"context"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"tidemark/auth"
)

// Tickets is what makes and takes tickets: an *auth.Authority.
type Tickets interface {
	NewTicket(ctx context.Context, who *auth.Principal) (string, error)
	Redeem(ctx context.Context, ticket string) (*auth.Principal, error)
}

// ticket answers POST /v1/sync/events/ticket with a ticket for a stream.
func (s *Server) ticket(c echo.Context, who *auth.Principal) error {
	if err := legible(c.Request()); err != nil {
		return err
	}
	ticket, err := s.Tickets.NewTicket(lasting(c), who)
	if err != nil {
		return err
	}
	return write(c, func(a *answer) error {
		a.text(`{"success":true,"data":{"ticket":"` + ticket + `","expiresIn":`)
		a.number(int64(auth.TicketLife / time.Second))
		a.text("}}")
		return nil
	})
}

// asHolder is asPrincipal for who may also have a ticket in the query.
func (s *Server) asHolder(scope string, handler func(echo.Context, *auth.Principal) error) echo.HandlerFunc {
	return s.as(func(r *http.Request) (*auth.Principal, error) {
		q := newQuery(r)
		if q.err != nil {
			return nil, q.err
		}
		if !q.has("ticket") {
			return s.Authenticate(r)
		}
		ticket := q.text("ticket")
		if q.err != nil {
			return nil, q.err
		}
		return s.Tickets.Redeem(context.WithoutCancel(r.Context()), ticket)
	}, scope, handler)
}
