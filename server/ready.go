package server

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"tidemark/mutlog"
)

// readyTimeout is how long the store may take to say that it is there: a load
// balancer gives up after not much more.
const readyTimeout = 2 * time.Second

// ready answers 200 while the store answers and Ready has nothing against it, else
// 503, so that a load balancer sends requests elsewhere. However many ask, one
// look at the store at a time is made for all of them.
func (s *Server) ready(c echo.Context) error {
	_, err, _ := s.readiness.Do("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
		defer cancel()
		if _, err := s.Log.Head(ctx, ""); err != nil || s.Ready == nil {
			return nil, err
		}
		return nil, s.Ready(ctx)
	})
	if err != nil {
		return fmt.Errorf("%w: not ready: %w", mutlog.ErrUnavailable, err)
	}
	text := "ok\n"
	if s.Worry != nil {
		if worry := s.Worry(); worry != "" {
			text += worry + "\n"
		}
	}
	return c.Blob(http.StatusOK, "text/plain; charset=utf-8", []byte(text))
}
