package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"tidemark/mutlog"
)

const (
	// timeout bounds one request.
	timeout = 10 * time.Second

	// senders is how many requests there are at the same time.
	senders = 8

	// maxAnswer bounds what is read of an answer, for the connection to be used
	// again.
	maxAnswer = 4 << 10
)

// Hook tells a URL of pushes.
type Hook struct {
	url    string
	secret Secret
	logger *slog.Logger
	http   *http.Client
	queue  *queue

	counters      counters
	full, failing seldom // warnings
}

// New returns a hook to target, which must be https, or http on the loopback
// interface. It sends nothing until Run.
func New(target string, secret Secret, logger *slog.Logger) (*Hook, error) {
	u, err := url.Parse(target)
	if err != nil {
		return nil, errors.New("the URL of the webhook does not parse") // without the URL, which may hold a secret
	}
	if u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) || u.Host == "" || u.Fragment != "" {
		return nil, errors.New("the URL of the webhook must be https, or http on the loopback interface")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = senders
	return &Hook{url: u.String(), secret: secret, logger: logger, queue: newQueue(), http: &http.Client{
		Transport: transport,
		Timeout:   timeout,
		// Whoever answers there must not send the server elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// isLoopback tells whether only this machine is reached under host.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Pushed notes that the log of user has a new head. It never waits.
func (h *Hook) Pushed(user mutlog.User, head mutlog.Timestamp) {
	if !h.queue.put(user, head) {
		h.drop()
	}
}

// Run sends until ctx is done. What still waits then has until drained is done.
func (h *Hook) Run(ctx, drained context.Context) {
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for {
				m := h.queue.take(ctx)
				if m == nil {
					return
				}
				h.deliver(drained, m)
			}
		})
	}
	wg.Wait()
	for m := h.queue.last(); m != nil && drained.Err() == nil; m = h.queue.last() {
		h.send(drained, m) // one try each: a receiver that fails now must not hold up the end
	}
}

// deliver sends m, and puts it back if that fails.
func (h *Hook) deliver(ctx context.Context, m *message) {
	err := h.send(ctx, m)
	user, tries := m.user, m.tries
	if again := h.queue.sent(m, err == nil); err != nil {
		h.failed(user, tries, again, err)
	} else {
		h.counters.delivered.Add(1)
	}
}

// body is that of a request.
type body struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      data      `json:"data"`
}

type data struct {
	User mutlog.User      `json:"user"`
	Head mutlog.Timestamp `json:"lastMutationAt"`
}

// bodyOf returns the body that tells of m.
func bodyOf(m *message) []byte {
	b, err := json.Marshal(body{"log.changed", m.made.UTC(), data{m.user, m.head}})
	if err != nil {
		panic(err) // there are strings and numbers only
	}
	return b
}

// send makes one request.
func (h *Hook) send(ctx context.Context, m *message) error {
	b := bodyOf(m)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url, bytes.NewReader(b))
	if err != nil {
		return err
	}
	now := time.Now()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "tidemark")
	r.Header.Set("webhook-id", m.id)
	r.Header.Set("webhook-timestamp", strconv.FormatInt(now.Unix(), 10))
	r.Header.Set("webhook-signature", h.secret.sign(m.id, now, b))
	answer, err := h.http.Do(r)
	if err != nil {
		return withoutURL(err)
	}
	defer answer.Body.Close()
	io.CopyN(io.Discard, answer.Body, maxAnswer)
	if answer.StatusCode < 200 || answer.StatusCode > 299 {
		return fmt.Errorf("it was answered %d", answer.StatusCode)
	}
	return nil
}

// withoutURL leaves the URL out of err, which goes to the log: its query or path
// may be a secret.
func withoutURL(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}
