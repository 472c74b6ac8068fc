package server

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"tidemark/mutlog"
)

// push answers POST /v1/sync.
func (s *Server) push(c echo.Context, user mutlog.User) error {
	body, err := s.body(c)
	if err != nil {
		return err
	}
	p, err := decodePush(c.Request(), body, s.Limits)
	if err != nil {
		return err
	}
	pushed, err := s.Log.Push(c.Request().Context(), user, p)
	if err != nil {
		return err
	}
	minimal := prefersMinimal(c.Request())
	h := c.Response().Header()
	h["X-Mutation-At"] = []string{pushed.Head.String()}
	if pushed.Replayed {
		h["Idempotency-Replayed"] = []string{"true"}
	}
	if minimal {
		h["Preference-Applied"] = []string{"return=minimal"}
	}
	return writePushed(c, pushed, minimal)
}

// decodePush makes a push of a request and its body.
func decodePush(r *http.Request, body []byte, limits mutlog.Limits) (p mutlog.Push, err error) {
	q := newQuery(r)
	p.Base = q.required("lastMutationAt")
	p.Merge = q.flag("merge")
	if q.err != nil {
		return p, q.err
	}
	if p.Client, err = header(r, "x-client-id", 255, noControls); err != nil {
		return p, err
	}
	if p.Key, err = header(r, "Idempotency-Key", 255, validKey); err != nil {
		return p, err
	}
	p.Mutations, err = mutlog.DecodePush(body, limits)
	var invalid *mutlog.ValidationError
	if errors.As(err, &invalid) {
		q.faults = append(q.faults, invalid.Faults...)
	} else if err != nil {
		return p, err
	}
	return p, q.check()
}

// validKey accepts printable ASCII but for an empty string in quotation marks.
func validKey(s string) bool { return printableASCII(s) && s != `""` }

// body reads the body of a push, of the right media type and within the limit.
func (s *Server) body(c echo.Context) ([]byte, error) {
	r := c.Request()
	if !isJSON(r.Header) {
		return nil, errMediaType
	}
	if r.ContentLength > s.MaxBodyBytes {
		c.Response().Header().Set("Connection", "close") // rather than read all that comes
		return nil, &tooLargeError{s.MaxBodyBytes}
	}
	var body []byte
	var err error
	limited := http.MaxBytesReader(c.Response().Writer, r.Body, s.MaxBodyBytes)
	if r.ContentLength >= 0 {
		body = make([]byte, r.ContentLength)
		_, err = io.ReadFull(limited, body)
	} else {
		body, err = io.ReadAll(limited)
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &tooLargeError{s.MaxBodyBytes}
	}
	if err != nil {
		c.Set(causeKey, err)
		return nil, &requestError{message: "The body could not be read to its end"}
	}
	return body, nil
}

// isJSON tells whether the body is said to be plain JSON in UTF-8.
func isJSON(h http.Header) bool {
	if encoding := h.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return false
	}
	types := h["Content-Type"]
	if len(types) != 1 {
		return false
	}
	if types[0] == "application/json" {
		return true
	}
	media, params, err := mime.ParseMediaType(types[0])
	charset, given := params["charset"]
	return err == nil && media == "application/json" && (!given || strings.EqualFold(charset, "utf-8"))
}

// prefersMinimal tells whether the client asked for return=minimal (RFC 7240).
func prefersMinimal(r *http.Request) bool {
	for _, value := range r.Header["Prefer"] {
		for preference := range strings.SplitSeq(value, ",") {
			token, _, _ := strings.Cut(preference, ";")
			name, what, _ := strings.Cut(token, "=")
			if strings.EqualFold(strings.TrimSpace(name), "return") {
				return strings.EqualFold(strings.Trim(strings.TrimSpace(what), `"`), "minimal") // the first one counts
			}
		}
	}
	return false
}

// pull answers GET /v1/sync.
func (s *Server) pull(c echo.Context, user mutlog.User) error {
	r := c.Request()
	q, metadataOnly, err := decodePull(r)
	if err != nil {
		return err
	}
	if metadataOnly {
		head, err := s.Log.Head(r.Context(), user)
		if err != nil {
			return err
		}
		if announceHead(c, head) {
			return c.NoContent(http.StatusNotModified)
		}
		return writeHead(c, head)
	}
	changes, err := s.Log.Pull(r.Context(), user, q)
	if err != nil {
		return err
	}
	if announceHead(c, changes.Head) {
		return c.NoContent(http.StatusNotModified)
	}
	return writeChanges(c, changes, q)
}

// decodePull makes a query of a request.
func decodePull(r *http.Request) (p mutlog.Query, metadataOnly bool, err error) {
	q := newQuery(r)
	p.Since = q.required("mutationsSince")
	metadataOnly = q.flag("metadataOnly")
	p.History = q.flag("history")
	p.Resources = q.resources("resources")
	p.After = q.cursor("after")
	p.Limit = int(q.number("limit", 1, 1000, 0))
	p.Page = q.number("page", 1, int64(mutlog.MaxTimestamp), 0)
	if q.has("page") {
		if !q.has("limit") {
			p.Limit = 100
		}
		if q.has("after") {
			q.apart("page", "after")
		}
		if p.History {
			q.apart("page", "history")
		}
	}
	if metadataOnly {
		if p.History {
			q.apart("history", "metadataOnly")
		}
		for _, name := range []string{"after", "page"} {
			if q.has(name) {
				q.apart(name, "metadataOnly")
			}
		}
	}
	return p, metadataOnly, q.check()
}

// announceHead sets the headers that tell the head of the log, and reports
// whether the client has this answer already.
func announceHead(c echo.Context, head mutlog.Timestamp) (notModified bool) {
	h := c.Response().Header()
	at := head.String()
	h["X-Mutation-At"] = []string{at}
	h["Etag"] = []string{`W/"` + at + `"`}
	for _, value := range c.Request().Header["If-None-Match"] {
		for tag := range strings.SplitSeq(value, ",") {
			tag = strings.TrimSpace(tag)
			if tag == "*" || strings.TrimPrefix(tag, "W/") == strconv.Quote(at) {
				return true
			}
		}
	}
	return false
}
