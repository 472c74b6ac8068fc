package server

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"tidemark/auth"
	"tidemark/devices"
	"tidemark/mutlog"
)

// seen tells Devices what became of a push or pull, after handler. It goes by
// what was asked and answered, and so knows nothing of how.
func (s *Server) seen(handler func(echo.Context, *auth.Principal, *hold) error) func(echo.Context, *auth.Principal, *hold) error {
	return func(c echo.Context, who *auth.Principal, h *hold) error {
		err := handler(c, who, h)
		if s.Devices == nil {
			return err
		}
		r := c.Request()
		client, clientErr := clientID(r)
		if clientErr != nil {
			return err // a device without a name that can be told
		}
		e := devices.Event{Push: r.Method == http.MethodPost}
		e.Cursor = askedCursor(r.URL.RawQuery, e.Push)
		e.Level = e.Cursor
		switch {
		case err == nil:
			h := c.Response().Header()
			e.Replayed = len(h["Idempotency-Replayed"]) > 0
			if head, known := toldHead(h); known && (e.Push || whole(r.URL.RawQuery)) {
				e.Level = head
			}
		case !c.Response().Committed:
			e.Refusal = refusalOf(c, err, e.Cursor)
		}
		s.Devices.Seen(who.User, client, e)
		return err
	}
}

// askedCursor returns the cursor of a request, or Beginning if it has none that
// can be read.
func askedCursor(query string, push bool) mutlog.Timestamp {
	name := "mutationsSince="
	if push {
		name = "lastMutationAt="
	}
	for pair := range strings.SplitSeq(query, "&") {
		if text, found := strings.CutPrefix(pair, name); found {
			if cursor, err := mutlog.ParseCursor(text); err == nil {
				return cursor
			}
		}
	}
	return mutlog.Beginning
}

// whole tells whether the answer to a pull with this query was all there is, so
// that its device is level with the log.
func whole(query string) bool {
	for _, part := range []string{"limit=", "page=", "metadataOnly=true"} {
		if strings.Contains(query, part) {
			return false
		}
	}
	return true
}

// toldHead returns the head that an answer tells.
func toldHead(h http.Header) (mutlog.Timestamp, bool) {
	at := h["X-Mutation-At"]
	if len(at) != 1 {
		return 0, false
	}
	head, err := strconv.ParseInt(at[0], 10, 64)
	return mutlog.Timestamp(head), err == nil
}

// refusalOf says what a device is answered with.
func refusalOf(c echo.Context, err error, cursor mutlog.Timestamp) *devices.Refusal {
	p := classify(c, err)
	r := &devices.Refusal{Status: p.status, Code: p.code, Cursor: cursor}
	if outOfSync := (*mutlog.OutOfSyncError)(nil); errors.As(err, &outOfSync) {
		r.Reason = outOfSync.Reason
	}
	return r
}
