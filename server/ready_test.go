package server_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"tidemark/server"
)

// A server is not ready while something is against it, says no word of what to
// whoever asks, and is alive all the same.
func TestNotReady(t *testing.T) {
	var why atomic.Pointer[error]
	worry := ""
	r := newRig(t, func(o *server.Options) {
		o.Worry = func() string { return worry }
		o.Ready = func(context.Context) error {
			if err := why.Load(); err != nil {
				return *err
			}
			return nil
		}
	})
	status := func(path string, want int) {
		t.Helper()
		if got := r.send("GET", path, ""); got.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, got.StatusCode, want)
		}
	}
	status("/readyz", 200)
	full := errors.New("the disk /srv/secret has room for 5 bytes more")
	why.Store(&full)
	r.refused(refusal{"GET", "/readyz", "", nil, 503, "The server cannot do this now, please try again", ""})
	status("/livez", 200)
	status("/v1/sync?mutationsSince=0", 200)
	why.Store(nil)
	worry = "retention: the last round failed"
	if got := r.send("GET", "/readyz", ""); got.StatusCode != 200 || string(got.body) != "ok\nretention: the last round failed\n" {
		t.Errorf("/readyz: %d %q", got.StatusCode, got.body)
	}
}
