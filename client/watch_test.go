package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tidemark/client"
	"tidemark/mutlog"
)

// The tests of this file run in bubbles, where an hour passes at once: what is
// tried when is all that matters.

// server answers each try to open a stream by the next of answers, and by the
// last one again when there are no more.
type script struct {
	answers []answerTo
	tries   []time.Time
}

// answerTo is one answer: a refusal unless status is 200.
type answerTo struct {
	status  int // 0 is no answer
	header  http.Header
	text    string
	hangs   bool // the stream stays open after text
	trickle time.Duration
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	a := s.answers[min(len(s.tries), len(s.answers)-1)]
	s.tries = append(s.tries, time.Now())
	if a.status == 0 {
		return nil, errors.New("connection refused")
	}
	header := http.Header{"Content-Type": {"text/event-stream"}}
	for name, values := range a.header {
		header[name] = values
	}
	body, w := io.Pipe()
	go func() {
		for line := range strings.SplitAfterSeq(a.text, "\n") {
			time.Sleep(a.trickle)
			if _, err := io.WriteString(w, line); err != nil {
				return
			}
		}
		if !a.hangs {
			w.Close()
		}
	}()
	context.AfterFunc(r.Context(), func() { w.CloseWithError(r.Context().Err()) })
	return &http.Response{StatusCode: a.status, Header: header, Body: body, Request: r}, nil
}

// pauses are the times between the tries.
func (s *script) pauses() (pauses []time.Duration) {
	for i := 1; i < len(s.tries); i++ {
		pauses = append(pauses, s.tries[i].Sub(s.tries[i-1]))
	}
	return pauses
}

// watch watches for d, and returns the heads that were told and the error, if
// there was one.
func watch(t *testing.T, s *script, d time.Duration) (heads []mutlog.Timestamp, err error) {
	synctest.Test(t, func(t *testing.T) {
		c, newErr := client.New("http://example.org", client.WithHTTPClient(&http.Client{Transport: s}))
		if newErr != nil {
			t.Fatal(newErr)
		}
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		for head, watchErr := range c.Watch(ctx) {
			if watchErr != nil {
				err = watchErr
				continue
			}
			heads = append(heads, head)
		}
		time.Sleep(time.Minute) // for the server's side to end
	})
	return heads, err
}

// told is a stream that tells heads.
func told(heads ...int) string {
	var b strings.Builder
	for _, h := range heads {
		fmt.Fprintf(&b, "event: head\nid: %d\ndata: {\"lastMutationAt\": %d}\n\n", h, h)
	}
	return b.String()
}

func stream(text string, hangs bool) answerTo {
	return answerTo{status: 200, text: text, hangs: hangs}
}

// What a stream says, and what it says that is to be passed over.
func TestWatchTells(t *testing.T) {
	s := &script{answers: []answerTo{
		stream("retry: 1500\n\n"+told(-1, 5)+":\n\nevent: other\ndata: {\"lastMutationAt\": 6}\n\nevent: head\ndata: no\n\nevent: head\ndata: {\"lastMutationAt\": -7}\n\n"+told(5, 7)+"event: head\ndata: {\"lastMutationAt\": 8}\n", false),
		stream(told(7), false),
		stream(told(7, 9), true)}}
	heads, err := watch(t, s, 40*time.Second)
	if want := []mutlog.Timestamp{-1, 5, 7, 9}; !slices.Equal(heads, want) || err != nil {
		t.Errorf("told %v, %v; want %v", heads, err, want)
	}
	if p := s.pauses(); len(p) < 2 || p[0] < 1500*time.Millisecond || p[0] > 3*time.Second {
		t.Errorf("asked to come back after 1.5 s, it came after %v", p)
	}
}

// Whatever a server does, it is not asked all the time.
func TestWatchNeverBusy(t *testing.T) {
	for name, c := range map[string]struct {
		answer answerTo
		most   int // tries in an hour
	}{
		"no server":                                  {answerTo{}, 80},
		"a stream that ends":                         {stream("", false), 80},
		"one that tells a head and ends":             {stream(told(1), false), 3601},
		"one that wants to be asked all the time":    {stream("retry: 0\n\n"+told(1), false), 3601},
		"one that wants to be asked never":           {stream("retry: 2147483647\n\n"+told(1), false), 31},
		"a refusal that passes":                      {answerTo{status: 503, text: "{}"}, 80},
		"a page":                                     {answerTo{status: 200, header: http.Header{"Content-Type": {"text/html"}}, text: "<p>"}, 80},
		"a refusal of something else than tidemark":  {answerTo{status: 404, text: "no"}, 80},
		"a silent stream":                            {stream("", true), 60},
		"a line without an end":                      {stream(strings.Repeat("x", 10_000), true), 80},
		"a stream whose connection says nothing new": {stream(told(1), true), 80},
	} {
		t.Run(name, func(t *testing.T) {
			s := &script{answers: []answerTo{c.answer}}
			_, err := watch(t, s, time.Hour)
			if n := len(s.tries); n > c.most || n < 20 || err != nil {
				t.Errorf("%d tries in an hour, want at most %d; %v", n, c.most, err)
			}
		})
	}
}

// A fleet that has lost its server, or was refused with one word, comes back one
// by one: from the first try on, and not later than at first it must.
func TestWatchSpread(t *testing.T) {
	full := answerTo{status: 503, header: http.Header{"Retry-After": {"10"}, "Content-Type": {"application/json"}}, text: `{"error":{"code":"UnavailableError"}}`}
	for name, c := range map[string]struct {
		answer answerTo
		least  time.Duration // before the second try
	}{"no server": {answerTo{}, time.Second}, "a server that is full": {full, 10 * time.Second}} {
		different := map[time.Duration]bool{}
		for range 20 {
			s := &script{answers: []answerTo{c.answer}}
			watch(t, s, time.Minute)
			first := s.pauses()[0]
			if different[first] = true; first < c.least || first > c.least+time.Second {
				t.Errorf("%s: tried again after %s", name, first)
			}
		}
		if len(different) < 15 {
			t.Errorf("%s: 20 clients came back after %d different pauses", name, len(different))
		}
	}
}

// A server that says when to come back is not asked before.
func TestWatchRetryAfter(t *testing.T) {
	busy := answerTo{status: 429, header: http.Header{"Retry-After": {"30"}, "Content-Type": {"application/json"}}, text: `{"error":{"code":"RateLimitError"}}`}
	s := &script{answers: []answerTo{busy, stream(told(1), true)}}
	heads, err := watch(t, s, 40*time.Second)
	if len(heads) != 1 || err != nil || s.pauses()[0] < 30*time.Second {
		t.Errorf("told %v, %v, after %v", heads, err, s.pauses())
	}
}

// A stream that lives is not given up, and one that has died is.
func TestWatchSilence(t *testing.T) {
	alive := stream(told(1)+strings.Repeat(":\n\n", 500), true)
	alive.trickle = 10 * time.Second
	s := &script{answers: []answerTo{alive}}
	if watch(t, s, time.Hour); len(s.tries) != 1 {
		t.Errorf("%d tries in an hour, for a stream that lives", len(s.tries))
	}
	s = &script{answers: []answerTo{stream(told(1), true), stream(told(2), true)}}
	heads, _ := watch(t, s, time.Minute)
	if p := s.pauses(); len(heads) != 2 || p[0] < 45*time.Second || p[0] > 50*time.Second {
		t.Errorf("a stream that has died is given up after %v; told %v", p, heads)
	}
}

// Whoever takes long to pull does not lose the stream for that.
func TestWatchOfSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		alive := stream(told(1, 2)+strings.Repeat(":\n\n", 100), true)
		alive.trickle = time.Second
		s := &script{answers: []answerTo{alive}}
		c, _ := client.New("http://example.org", client.WithHTTPClient(&http.Client{Transport: s}))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		n := 0
		for range c.Watch(ctx) {
			n++
			time.Sleep(2 * time.Minute)
		}
		time.Sleep(time.Minute) // for the server's side to end
		if n != 2 || len(s.tries) != 1 {
			t.Errorf("%d heads in %d tries", n, len(s.tries))
		}
	})
}

// A refusal for good ends it, with what the server has said.
func TestWatchEnds(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404} {
		s := &script{answers: []answerTo{{}, stream(told(1), false),
			{status: status, header: http.Header{"Content-Type": {"application/json"}}, text: `{"error":{"code":"SomeError","message":"no"}}`}}}
		heads, err := watch(t, s, time.Hour)
		var refused *client.Error
		if !errors.As(err, &refused) || refused.Status != status || len(heads) != 1 || len(s.tries) != 3 {
			t.Errorf("%d: told %v, %v, in %d tries", status, heads, err, len(s.tries))
		}
	}
}

// Whoever has enough is not told more.
func TestWatchBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{answers: []answerTo{stream(told(1, 2, 3), true)}}
		c, _ := client.New("http://example.org", client.WithHTTPClient(&http.Client{Transport: s}))
		n := 0
		for range c.Watch(t.Context()) {
			if n++; n == 2 {
				break
			}
		}
		if n != 2 || len(s.tries) != 1 {
			t.Errorf("%d heads in %d tries", n, len(s.tries))
		}
	})
}
