package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
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
func OpenUser(r *http.Request) (*auth.Principal, error) { return openUser(r, defaultPrincipal) }

// openUser is OpenUser where unnamed is who names no user.
func openUser(r *http.Request, unnamed *auth.Principal) (*auth.Principal, error) {
	id, err := header(r, "X-User-Id", maxNameBytes, noControls)
	if err != nil {
		return nil, err
	}
	if id == "" {
		return unnamed, nil
	}
	named := *unnamed
	named.User = mutlog.User(id)
	return &named, nil
}

func noControls(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return false
		}
	}
	return true
}

// Authenticator is how a server with authentication tells users apart: by the
// credential of a request. As long as the authority asks for none, it is
// OpenUser.
func Authenticator(a *auth.Authority) func(*http.Request) (*auth.Principal, error) {
	unnamed := &auth.Principal{User: DefaultUser, Method: auth.Open, Done: a.Closing()}
	return func(r *http.Request) (*auth.Principal, error) {
		ctx := context.WithoutCancel(r.Context()) // see lasting
		closed, err := a.Closed(ctx)
		switch {
		case err != nil:
			return nil, err
		case !closed:
			return openUser(r, unnamed)
		}
		credential, err := credentialOf(r)
		if err != nil {
			return nil, err
		}
		return a.Verify(ctx, credential)
	}
}

// credentialOf returns the token of a request. Which of several would count is
// not for a server to guess, when a proxy in front may guess otherwise.
func credentialOf(r *http.Request) (string, error) {
	bearers, tokens := r.Header["Authorization"], r.Header["X-Auth-Token"]
	switch {
	case len(bearers)+len(tokens) > 1:
		return "", &requestError{message: "The headers Authorization and x-auth-token must not be repeated, nor be there both",
			member: "header", name: "Authorization"}
	case len(tokens) == 1 && tokens[0] != "":
		return tokens[0], nil
	case len(bearers) == 1:
		scheme, token, _ := strings.Cut(bearers[0], " ")
		if token = strings.TrimLeft(token, " "); strings.EqualFold(scheme, "Bearer") && token != "" {
			return token, nil
		}
	}
	return "", auth.ErrUnauthenticated
}

// asPrincipal finds out who is asking and whether they have scope, before
// handler runs.
func (s *Server) asPrincipal(scope string, handler func(echo.Context, *auth.Principal) error) echo.HandlerFunc {
	return s.as(s.Authenticate, scope, handler)
}

// as is asPrincipal by another way to find out who is asking.
func (s *Server) as(authenticate func(*http.Request) (*auth.Principal, error), scope string, handler func(echo.Context, *auth.Principal) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		v := s.visitor(c)
		if err := v.arrives(); err != nil {
			return err
		}
		if s.StoreTime > 0 {
			r := c.Request()
			c.SetRequest(r.WithContext(mutlog.Hurry(r.Context(), time.Now().Add(s.StoreTime))))
		}
		who, err := authenticate(c.Request())
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
		if s.Held != nil && s.Held(who.User) {
			return errHeld
		}
		return handler(c, who)
	}
}

// errHeld refuses a user whose log is not whole.
var errHeld = fmt.Errorf("%w: an import into the log of this user has not ended", mutlog.ErrUnavailable)
