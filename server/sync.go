package server

import (
	"errors"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"tidemark/auth"
	"tidemark/mutlog"
)

// push answers POST /v1/sync.
func (s *Server) push(c echo.Context, who *auth.Principal, h *hold) error {
	access := s.Resources().Access(who.Has)
	body, err := s.body(c, h)
	if err != nil {
		return err
	}
	ctx := lasting(c)
	work := decodeWork(body)
	if access.Kinds.Judge() { // what breaks other rules is compared at once
		work += schemaWork * min(int64(len(body)), int64(s.Limits.DataBytes))
	}
	if err := h.forWork(ctx, work); err != nil {
		return err
	}
	p, err := decodePush(c.Request(), body, s.Limits, access)
	if err != nil {
		return err
	}
	if err := h.forWork(ctx, s.pushWorkOf(ctx, who.User, body, &p)); err != nil {
		return err
	}
	step(c, "decode")
	pushed, err := s.Log.Push(ctx, who.User, p)
	step(c, "commit")
	if err != nil {
		return err
	}
	notePushed(c, pushed)
	if s.Pushed != nil && !pushed.Replayed && len(pushed.Mutations) > 0 {
		s.Pushed(who.User, pushed.Head)
	}
	h.keep(answerWork(pushed))
	minimal := prefersMinimal(c.Request())
	header := c.Response().Header()
	header["X-Mutation-At"] = []string{pushed.Head.String()}
	if pushed.Replayed {
		header["Idempotency-Replayed"] = []string{"true"}
	}
	if minimal {
		header["Preference-Applied"] = []string{"return=minimal"}
	}
	return writePushed(c, pushed, minimal)
}

// decodePush makes a push of a request and its body.
func decodePush(r *http.Request, body []byte, limits mutlog.Limits, access mutlog.Access) (p mutlog.Push, err error) {
	q := newQuery(r)
	p.Access = access
	p.Base = q.required("lastMutationAt")
	p.Merge = q.flag("merge")
	if q.err != nil {
		return p, q.err
	}
	if p.Client, err = clientID(r); err != nil {
		return p, err
	}
	if p.Key, err = header(r, "Idempotency-Key", maxNameBytes, validKey); err != nil {
		return p, err
	}
	p.Mutations, err = mutlog.DecodePush(body, limits, access)
	var invalid *mutlog.ValidationError
	if errors.As(err, &invalid) {
		q.faults = append(q.faults, invalid.Faults...)
	} else if err != nil {
		return p, err
	}
	return p, q.check()
}

// clientID returns the name that an app or device gives itself, or "".
func clientID(r *http.Request) (string, error) {
	return header(r, "x-client-id", maxNameBytes, noControls)
}

// legible refuses what no request may say, where its query and its x-client-id
// mean nothing.
func legible(r *http.Request) error {
	if err := newQuery(r).err; err != nil {
		return err
	}
	_, err := clientID(r)
	return err
}

// validKey accepts printable ASCII but for an empty string in quotation marks.
func validKey(s string) bool { return printableASCII(s) && s != `""` }

// body reads the body of a push, of the right media type and within the limit.
func (s *Server) body(c echo.Context, h *hold) ([]byte, error) {
	r := c.Request()
	if !isJSON(r.Header) {
		return nil, errMediaType
	}
	if r.ContentLength > s.MaxBodyBytes {
		return nil, s.tooLarge(c)
	}
	body, err := h.read(http.MaxBytesReader(c.Response().Writer, r.Body, s.MaxBodyBytes), r.ContentLength, s.MaxBodyBytes)
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return body, nil
	case errors.As(err, &tooLarge):
		return nil, s.tooLarge(c)
	}
	hangUp(c) // as in tooLarge
	if err == errMemory {
		return nil, err
	}
	c.Set(causeKey, err)
	return nil, &requestError{message: "The body could not be read to its end"}
}

// tooLarge refuses a body over the limit, and the connection with it: to keep
// that, the answer would wait for the rest of the body.
func (s *Server) tooLarge(c echo.Context) error {
	hangUp(c)
	return &tooLargeError{s.MaxBodyBytes}
}

// hangUp ends the connection after the answer, unless it is one over HTTP/2,
// where a body is cut without what else there is on the connection.
func hangUp(c echo.Context) {
	if c.Request().ProtoMajor == 1 {
		c.Response().Header().Set("Connection", "close")
	}
}

// isJSON tells whether the body is said to be plain JSON in UTF-8.
func isJSON(h http.Header) bool {
	for _, encoding := range h["Content-Encoding"] {
		if encoding != "" && !strings.EqualFold(encoding, "identity") {
			return false
		}
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
func (s *Server) pull(c echo.Context, who *auth.Principal, h *hold) error {
	r := c.Request()
	q, err := decodePull(r, s.Resources().Access(who.Has))
	if err != nil {
		return err
	}
	if q.wait > 0 {
		err := s.await(c, who, q.Since, q.wait)
		step(c, "wait")
		if err != nil {
			return err
		}
	}
	if q.metadataOnly {
		head, err := s.Log.Head(lasting(c), who.User)
		if err != nil {
			return err
		}
		if announceHead(c, head) {
			return c.NoContent(http.StatusNotModified)
		}
		return writeHead(c, head)
	}
	ctx := lasting(c)
	if err := h.forWork(ctx, pullWork); err != nil {
		return err
	}
	step(c, "decode")
	changes, err := s.Log.Pull(ctx, who.User, q.Query)
	step(c, "look up")
	if err != nil {
		return err
	}
	if announceHead(c, changes.Head) {
		return c.NoContent(http.StatusNotModified)
	}
	return writeChanges(c, changes, q.Query)
}

// pullRequest is what a pull asks for.
type pullRequest struct {
	mutlog.Query
	metadataOnly bool
	wait         time.Duration // for something to answer with; 0 means not at all
}

// decodePull makes sense of the query of a pull.
func decodePull(r *http.Request, access mutlog.Access) (p pullRequest, err error) {
	q := newQuery(r)
	p.Access = access
	if _, err = clientID(r); err != nil {
		return p, err
	}
	p.Since = q.required("mutationsSince")
	p.metadataOnly = q.flag("metadataOnly")
	p.History = q.flag("history")
	p.Resources = q.resources("resources", access)
	p.After = q.cursor("after")
	p.Limit = int(q.number("limit", 1, maxPageSize, 0))
	p.Page = q.number("page", 1, int64(mutlog.MaxTimestamp), 0)
	p.wait = time.Duration(q.number("wait", 1, maxWait, 0)) * time.Second
	if q.has("page") {
		if !q.has("limit") {
			p.Limit = pageSize
		}
		if q.has("after") {
			q.apart("page", "after")
		}
		if p.History {
			q.apart("page", "history")
		}
	}
	if p.metadataOnly {
		if p.History {
			q.apart("history", "metadataOnly")
		}
		for _, name := range []string{"after", "page", "wait"} {
			if q.has(name) {
				q.apart(name, "metadataOnly")
			}
		}
	}
	return p, q.check()
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
