package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"

	"tidemark/mutlog"
)

const (
	// silence is how long a stream may say nothing before it counts as dead: a
	// server says that it is alive every 15 seconds.
	silence = 45 * time.Second

	// The pauses before a stream is opened again, unless the server names
	// others: longer each time that nothing was heard, with a random part.
	leastPause = 1 * time.Second
	mostPause  = 2 * time.Minute

	// maxLineBytes bounds a line of a stream.
	maxLineBytes = 4 << 10
)

// Watch yields the head of the log at once and whenever it has changed, until
// ctx is done. A head is a hint to pull, if it is not the cursor of the device
// already; one that was missed, because the device was away, is made up for by
// the next. Heads that come one after the other differ.
//
// It survives lost connections, restarts of the server and refusals that pass: it
// comes back when the server has asked it to, and after failures at growing,
// random intervals. Nothing else is told of them. It ends with an *Error when
// the server refuses for good, say because the token was revoked.
//
// A Timeout of the http.Client cuts the stream each time; it is better without.
func (c *Client) Watch(ctx context.Context) iter.Seq2[mutlog.Timestamp, error] {
	return func(yield func(mutlog.Timestamp, error) bool) {
		w := &watch{client: c, yield: yield, told: mutlog.Beginning - 1, retry: leastPause}
		for failures := 0; ctx.Err() == nil; {
			heard, err := w.follow(ctx)
			if w.stopped || ctx.Err() != nil {
				return
			}
			if isFinal(err) {
				yield(mutlog.Beginning, fmt.Errorf("watch: %w", err))
				return
			}
			if failures++; heard {
				failures = 0
			}
			w.rest(ctx, failures, err)
		}
	}
}

// watch is a Watch under way.
type watch struct {
	client  *Client
	yield   func(mutlog.Timestamp, error) bool
	stopped bool             // yield wants no more
	told    mutlog.Timestamp // that was yielded last
	retry   time.Duration    // that the server has asked for
}

// follow opens a stream and yields what it tells until it ends. heard tells
// whether there was an event.
func (w *watch) follow(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	dead := time.AfterFunc(silence, cancel)
	defer dead.Stop()
	body, err := w.client.openEvents(ctx)
	if err != nil {
		return false, err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxLineBytes)
	var e event
	for lines.Scan() {
		dead.Reset(silence)
		if !e.take(lines.Text()) {
			continue
		}
		if e.retry > 0 {
			w.retry = min(e.retry, mostPause)
		}
		if head, ok := e.head(); ok {
			heard = true
			if head != w.told {
				dead.Stop() // the silence of whoever pulls is not the server's
				w.stopped = !w.yield(head, nil)
				dead.Reset(silence)
			}
			if w.told = head; w.stopped {
				return heard, nil
			}
		}
		e = event{}
	}
	return heard, lines.Err()
}

// rest waits before the next try, as long as the server wants at least, which
// gives each client a time of its own. After failures it waits longer each time,
// with a random part: a refusal tells many clients the same time.
func (w *watch) rest(ctx context.Context, failures int, err error) {
	pause := max(w.retry, leastPause)
	if failures > 0 {
		pause = min(pause<<min(failures-1, 10), mostPause)
		spread := rand.N(pause)
		var refused *Error
		if errors.As(err, &refused) {
			pause = max(pause, refused.RetryAfter)
		}
		pause += spread
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// isFinal tells whether to try again would bring the same refusal.
func isFinal(err error) bool {
	var refused *Error
	return errors.As(err, &refused) && refused.Code != "" && refused.Status < 500 && refused.Status != http.StatusTooManyRequests
}

// openEvents opens a stream.
func (c *Client) openEvents(ctx context.Context) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, c.sync.JoinPath("events").String(), nil)
	if err != nil {
		return nil, err
	}
	for name, values := range c.header {
		r.Header[name] = values
	}
	r.Header.Set("Accept", "text/event-stream")
	response, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	if response.StatusCode == http.StatusOK && strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") {
		return response.Body, nil
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if response.StatusCode == http.StatusOK {
		return nil, malformed("it is no stream of events")
	}
	return nil, errorOf(response, answer)
}

// event is an event of a stream as far as it has come.
type event struct {
	name, data string
	retry      time.Duration
}

// take takes a line of the stream and tells whether the event is complete.
func (e *event) take(line string) (complete bool) {
	name, value, _ := strings.Cut(line, ":")
	value = strings.TrimPrefix(value, " ")
	switch name {
	case "event":
		e.name = value
	case "data":
		e.data += value
	case "retry":
		if ms, err := strconv.ParseUint(value, 10, 31); err == nil {
			e.retry = time.Duration(ms) * time.Millisecond
		}
	}
	return line == ""
}

// head returns the head that the event tells; ok is false if it is about
// something else.
func (e *event) head() (head mutlog.Timestamp, ok bool) {
	var data struct {
		Head *mutlog.Timestamp `json:"lastMutationAt"`
	}
	if e.name != "head" || json.Unmarshal([]byte(e.data), &data) != nil {
		return mutlog.Beginning, false
	}
	head, err := headOf(data.Head)
	return head, err == nil
}
