package server

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"tidemark/auth"
	"tidemark/events"
	"tidemark/mutlog"
)

// requestError refuses a request whose grammar is broken.
type requestError struct {
	message string
	member  string // of the details: "parameter" or "header", or ""
	name    string
}

func (e *requestError) Error() string { return e.message }

// tooLargeError refuses a body over the limit.
type tooLargeError struct{ limit int64 }

func (e *tooLargeError) Error() string {
	return fmt.Sprintf("The body must not exceed %d bytes", e.limit)
}

var (
	errMediaType = errors.New("the body is not plain JSON")
	errPanic     = errors.New("a handler panicked")
)

// problem is what an error becomes on the wire.
type problem struct {
	status  int
	kind    string // "type" of the envelope
	code    string
	message string
	details []byte // a JSON object
}

var noDetails = []byte("{}")

// problemOf returns what err becomes on the wire.
func problemOf(c echo.Context, err error) problem {
	p := classify(c, err)
	var invalid *mutlog.ValidationError
	var outOfSync *mutlog.OutOfSyncError
	switch {
	case p.details != nil:
	case errors.As(err, &invalid):
		p.details = faultDetails(invalid.Faults)
	case errors.As(err, &outOfSync):
		p.details = outOfSyncDetails(outOfSync)
	}
	return p
}

// classify is the one place where errors become answers. It leaves out details
// that can be long.
func classify(c echo.Context, err error) problem {
	var (
		scope       *auth.ScopeError
		kind        *mutlog.ScopeError
		page        *pageError
		rate        *rateError
		request     *requestError
		syntax      *mutlog.SyntaxError
		invalid     *mutlog.ValidationError
		outOfSync   *mutlog.OutOfSyncError
		tooLarge    *tooLargeError
		httpProblem *echo.HTTPError
	)
	switch {
	case errors.Is(err, auth.ErrUnauthenticated):
		return unauthorized(c, err)
	case errors.As(err, &scope):
		return forbidden(c, scope.Scope, err)
	case errors.As(err, &kind):
		return forbidden(c, kind.Scope, err)
	case errors.As(err, &page):
		return problem{http.StatusForbidden, "forbidden", "ForbiddenError", page.message,
			fmt.Appendf(nil, `{"header":%q}`, page.header)}
	case errors.As(err, &rate):
		c.Response().Header().Set("Retry-After", strconv.FormatInt(rate.retryAfter(), 10))
		return problem{http.StatusTooManyRequests, "rate_limit_exceeded", "RateLimitError", rate.Error(),
			fmt.Appendf(nil, `{"limit":%q}`, rate.limit)}
	case errors.As(err, &request):
		return invalidRequest(request.message, request.member, request.name)
	case errors.As(err, &syntax):
		p := invalidRequest(syntax.Error(), "", "")
		p.details = fmt.Appendf(nil, `{"offset":%d}`, syntax.Offset)
		return p
	case errors.As(err, &invalid):
		return unprocessable("ValidationError", invalid.Error(), nil)
	case errors.Is(err, mutlog.ErrKeyReused):
		return unprocessable("IdempotencyKeyReuseError", "This Idempotency-Key was used for other mutations", noDetails)
	case errors.As(err, &outOfSync):
		return problem{http.StatusConflict, "conflict", "OutOfSyncError", outOfSync.Error(), nil}
	case errors.As(err, &tooLarge):
		return problem{http.StatusRequestEntityTooLarge, "payload_too_large", "PayloadTooLargeError", tooLarge.Error(),
			fmt.Appendf(nil, `{"limit":%d}`, tooLarge.limit)}
	case errors.Is(err, errMediaType):
		return problem{http.StatusUnsupportedMediaType, "unsupported_media_type", "UnsupportedMediaTypeError",
			"The body must be application/json in UTF-8, without Content-Encoding", noDetails}
	case errors.As(err, &httpProblem) && httpProblem.Code == http.StatusNotFound:
		return problem{http.StatusNotFound, "not_found", "NotFoundError", "There is nothing at this path", noDetails}
	case errors.As(err, &httpProblem) && httpProblem.Code == http.StatusMethodNotAllowed:
		return methodNotAllowed(c)
	case errors.Is(err, events.ErrUserLimit):
		c.Response().Header().Set("Retry-After", "10") // seconds: others have to end first
		return problem{http.StatusTooManyRequests, "rate_limit_exceeded", "RateLimitError",
			"There are too many streams and waiting pulls of this user", []byte(`{"limit":"streams"}`)}
	case errors.Is(err, events.ErrFull), errors.Is(err, events.ErrClosed),
		errors.Is(err, mutlog.ErrUnavailable), errors.Is(err, mutlog.ErrOutcomeUnknown):
		return problem{http.StatusServiceUnavailable, "service_unavailable", "UnavailableError",
			"The server cannot do this now, please try again", noDetails}
	}
	return problem{http.StatusInternalServerError, "internal_server_error", "InternalError",
		"The server failed; the log of it has the cause under the X-Request-Id of this answer", noDetails}
}

// unauthorized asks for a token. Whatever is wrong with the one that came, the
// answer is the same; why is for the log.
func unauthorized(c echo.Context, err error) problem {
	challenge := "Bearer"
	if errors.Is(err, auth.ErrInvalidToken) {
		challenge += ` error="invalid_token"`
	}
	c.Response().Header().Set("WWW-Authenticate", challenge)
	c.Set(causeKey, err)
	return problem{http.StatusUnauthorized, "unauthorized", "UnauthorizedError",
		"A valid token is required: Authorization: Bearer, or x-auth-token", noDetails}
}

func forbidden(c echo.Context, scope string, err error) problem {
	c.Response().Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer error=\"insufficient_scope\", scope=%q", scope))
	return problem{http.StatusForbidden, "forbidden", "ForbiddenError", err.Error(),
		fmt.Appendf(nil, `{"scope":%q}`, scope)}
}

func invalidRequest(message, member, name string) problem {
	details := noDetails
	if member != "" {
		details = fmt.Appendf(nil, `{%q:%q}`, member, name)
	}
	return problem{http.StatusBadRequest, "invalid_request", "InvalidRequestError", message, details}
}

func unprocessable(code, message string, details []byte) problem {
	return problem{http.StatusUnprocessableEntity, "unprocessable_entity", code, message, details}
}

// methodNotAllowed tells which methods the path knows, in the order of the
// route table.
func methodNotAllowed(c echo.Context) problem {
	methods := methodsOf(c)
	c.Response().Header().Set("Allow", strings.Join(methods, ", "))
	return problem{http.StatusMethodNotAllowed, "method_not_allowed", "MethodNotAllowedError",
		"This path does not know the method " + clip(c.Request().Method),
		[]byte(`{"allow":["` + strings.Join(methods, `","`) + `"]}`)}
}

// methodsOf returns the methods of the path, if that is all it was asked for.
func methodsOf(c echo.Context) (methods []string) {
	allow, _ := c.Get(echo.ContextKeyHeaderAllow).(string)
	for method := range strings.SplitSeq(allow, ", ") {
		if method != http.MethodOptions { // which echo adds
			methods = append(methods, method)
		}
	}
	return methods
}

func faultDetails(faults []mutlog.Fault) []byte {
	b := []byte(`{"errors":[`)
	for i, f := range faults {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '{')
		if f.Index != mutlog.NoIndex {
			b = strconv.AppendInt(append(b, `"index":`...), int64(f.Index), 10)
			b = append(b, ',')
		}
		b = mutlog.AppendQuoted(append(b, `"member":`...), f.Member)
		b = mutlog.AppendQuoted(append(b, `,"message":`...), f.Message)
		b = append(b, '}')
	}
	return append(b, "]}"...)
}

func outOfSyncDetails(e *mutlog.OutOfSyncError) []byte {
	size := 256
	for i := range e.Conflicts {
		size += 512 + len(e.Conflicts[i].Client.Data) + len(e.Conflicts[i].Server.Data)
	}
	b := make([]byte, 0, size) // it can be megabytes
	b = fmt.Appendf(b, `{"reason":%q,"clientLastMutationAt":%d,"serverLastMutationAt":%d`, e.Reason, e.Client, e.Server)
	if e.Conflicts != nil {
		b = append(b, `,"conflicts":[`...)
		for i := range e.Conflicts {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendConflict(b, &e.Conflicts[i])
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

func appendConflict(b []byte, c *mutlog.Conflict) []byte {
	b = fmt.Appendf(b, `{"index":%d,"resource":%q,"resourceId":`, c.Index, c.Client.Resource)
	b = mutlog.AppendQuoted(b, c.Client.ResourceID)
	b = appendBranch(append(b, `,"client":`...), &c.Client)
	b = append(b, '}')
	b = appendBranch(append(b, `,"server":`...), &c.Server)
	b = fmt.Appendf(b, `,"timestamp":%d},"fields":[`, c.Server.Timestamp)
	for i, f := range c.Fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = mutlog.AppendQuoted(b, f)
	}
	return append(b, "]}"...)
}

// appendBranch appends one side of a conflict, without its closing brace.
func appendBranch(b []byte, m *mutlog.Mutation) []byte {
	b = fmt.Appendf(b, `{"type":%q`, m.Type)
	if m.Data != nil {
		b = append(append(b, `,"data":`...), m.Data...)
	}
	return b
}

// answerError answers with an error.
func (s *Server) answerError(err error, c echo.Context) {
	p := problemOf(c, err)
	s.answerProblem(c, &p, err)
}

// answerProblem answers with the envelope of an error, or with the same facts
// as problem details (RFC 9457) if the client asked for them.
func (s *Server) answerProblem(c echo.Context, p *problem, cause error) {
	if c.Response().Committed {
		return
	}
	noteError(c, p.code, cause)
	h := c.Response().Header()
	h.Del("X-Mutation-At") // never on an error: a client must pull before it adopts a head
	h.Del("Etag")
	h.Del("Idempotency-Replayed")
	h.Del("Preference-Applied")
	if p.status >= 500 {
		c.Set(causeKey, cause)
		h.Set("Retry-After", "1")
	}
	var body []byte
	if asksForProblem(c.Request()) {
		h.Set("Content-Type", "application/problem+json")
		body = p.appendProblem(make([]byte, 0, len(p.details)+512))
	} else {
		h["Content-Type"] = contentJSON
		body = p.appendEnvelope(make([]byte, 0, len(p.details)+512))
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.Response().WriteHeader(p.status)
	c.Response().Write(body) // if the client is gone there is nobody to tell
}

func (p *problem) appendEnvelope(b []byte) []byte {
	b = fmt.Appendf(b, `{"success":false,"type":%q,"message":`, p.kind)
	b = mutlog.AppendQuoted(b, p.message)
	b = fmt.Appendf(b, `,"error":{"code":%q,"message":`, p.code)
	b = mutlog.AppendQuoted(b, p.message)
	b = append(append(b, `,"details":`...), p.details...)
	return append(b, "}}\n"...)
}

func (p *problem) appendProblem(b []byte) []byte {
	b = fmt.Appendf(b, `{"type":"urn:tidemark:problem:%s","title":%q,"status":%d,"detail":`, p.code, p.kind, p.status)
	b = mutlog.AppendQuoted(b, p.message)
	b = fmt.Appendf(b, `,"code":%q,"details":`, p.code)
	b = append(b, p.details...)
	return append(b, "}\n"...)
}

// asksForProblem tells whether Accept names application/problem+json, and does
// not prefer application/json to it.
func asksForProblem(r *http.Request) bool {
	quality := map[string]float64{}
	for _, value := range r.Header["Accept"] {
		for part := range strings.SplitSeq(value, ",") {
			media, params, err := mime.ParseMediaType(part)
			if err != nil {
				continue
			}
			quality[media] = 1
			if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
				quality[media] = q
			}
		}
	}
	q := quality["application/problem+json"]
	return q > 0 && q >= quality["application/json"]
}
