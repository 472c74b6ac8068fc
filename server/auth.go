package server

import (
	"net/http"
	"unicode"

	"github.com/labstack/echo/v4"

	"tidemark/auth"
	"tidemark/mutlog"
)

// DefaultUser is the user of an open server's requests that name none.
const DefaultUser mutlog.User = "default"

var defaultPrincipal = &auth.Principal{User: DefaultUser, Method: auth.Open}

// OpenUser is how a server without authentication tells users apart: by the
// header X-User-Id, 1 to 255 bytes without control characters.
func OpenUser(r *http.Request) (*auth.Principal, error) {
	id, err := header(r, "X-User-Id", maxNameBytes, noControls)
	if err != nil {
		return nil, err
	}
	if id == "" {
		return defaultPrincipal, nil
	}
	return &auth.Principal{User: mutlog.User(id), Method: auth.Open}, nil
}

func noControls(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return false
		}
	}
	return true
}

// asPrincipal finds out who is asking and whether they have scope, before
// handler runs.
func (s *Server) asPrincipal(scope string, handler func(echo.Context, *auth.Principal) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		v := s.visitor(c)
		if err := v.arrives(); err != nil {
			return err
		}
		who, err := s.Authenticate(c.Request())
		if err != nil {
			v.fails(err)
			return err
		}
		c.Set(principalKey, who)
		if who.Method == auth.Open {
			if err := s.keepPagesOut(c.Request()); err != nil {
				return err
			}
		}
		if !who.Has(scope) {
			return &auth.ScopeError{Scope: scope}
		}
		if err := v.isOf(who.User); err != nil {
			return err
		}
		return handler(c, who)
	}
}
