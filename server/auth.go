package server

import (
	"net/http"
	"unicode"

	"github.com/labstack/echo/v4"

	"tidemark/mutlog"
)

// DefaultUser is the user of an open server's requests that name none.
const DefaultUser mutlog.User = "default"

// OpenUser is how a server without authentication tells users apart: by the
// header X-User-Id, 1 to 255 bytes without control characters.
func OpenUser(r *http.Request) (mutlog.User, error) {
	id, err := header(r, "X-User-Id", maxNameBytes, noControls)
	if id == "" || err != nil {
		return DefaultUser, err
	}
	return mutlog.User(id), nil
}

func noControls(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return false
		}
	}
	return true
}

// asUser finds out who is asking before handler runs.
func (s *Server) asUser(handler func(echo.Context, mutlog.User) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		user, err := s.Authenticate(c.Request())
		if err != nil {
			return err
		}
		c.Set(userKey, user)
		return handler(c, user)
	}
}
