package server

import (
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"
)

// What a web app of an allowed origin may send and read beyond what browsers
// let every page. There are no cookies, so there is nothing to say about
// credentials: tokens are headers, and only a page that has one can send it.
const (
	allowedHeaders = "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Prefer, " +
		"Traceparent, Tracestate, X-Auth-Token, X-Client-Id, X-Request-Id, X-User-Id"
	exposedHeaders = "ETag, Idempotency-Replayed, Preference-Applied, RateLimit, RateLimit-Policy, Retry-After, " +
		"WWW-Authenticate, X-Mutation-At, X-Request-Id"

	// preflightAge is how many seconds a browser may go by a preflight: the most
	// that any does.
	preflightAge = "7200"
)

// allowsOrigin tells whether pages of an origin may use this server.
func (s *Server) allowsOrigin(origin string) bool { return s.origins[origin] }

// shareWithOrigin lets the page that a browser asks for read the answer, if its
// origin is allowed. Where any is, each answer depends on the origin.
func (s *Server) shareWithOrigin(c echo.Context) (allowed bool) {
	if len(s.origins) == 0 {
		return false
	}
	h := c.Response().Header()
	h["Vary"] = append(h["Vary"], "Origin")
	origins := c.Request().Header["Origin"]
	if len(origins) != 1 || !s.allowsOrigin(origins[0]) {
		return false
	}
	h["Access-Control-Allow-Origin"] = origins
	h["Access-Control-Expose-Headers"] = []string{exposedHeaders}
	return true
}

// isPreflight tells whether a browser asks what a page may send.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Access-Control-Request-Method"]) == 1
}

// preflight answers a browser that asks what a page of an allowed origin may
// send to a path.
func preflight(c echo.Context) error {
	h := c.Response().Header()
	h.Del("Access-Control-Expose-Headers") // which are those of the answer to come
	h.Set("Access-Control-Allow-Methods", strings.Join(methodsOf(c), ", "))
	h.Set("Access-Control-Allow-Headers", allowedHeaders)
	h.Set("Access-Control-Max-Age", preflightAge)
	h.Add("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")
	return c.NoContent(http.StatusNoContent)
}
