package server

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"tidemark/auth"
	"tidemark/mutlog"
)

// maxWait is how long a pull may wait, in seconds.
const maxWait = 60

// await waits for something later than since in the log of who, up to patience.
// It holds no memory for work and no transaction meanwhile. A client that has
// gone away does not wait; whether it has only ended its side of the connection
// nobody can tell, so that it is answered.
func (s *Server) await(c echo.Context, who *auth.Principal, since mutlog.Timestamp, patience time.Duration) error {
	valid, lapse := context.WithCancelCause(c.Request().Context())
	defer whenLapsed(who, func() { lapse(errLapsed) })()
	ctx, cancel := context.WithTimeout(valid, patience)
	defer cancel()
	// The time to send the request is over, and must not end the wait.
	http.NewResponseController(c.Response().Writer).SetReadDeadline(time.Time{})
	if err := s.hub.Wait(ctx, who.User, since); err != nil {
		return err
	}
	if context.Cause(valid) == errLapsed {
		return fmt.Errorf("%w: it ended while the pull waited", auth.ErrInvalidToken)
	}
	return nil
}
