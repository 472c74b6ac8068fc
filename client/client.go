package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"tidemark/mutlog"
)

// Client asks one server for one device. It may be used by many goroutines.
type Client struct {
	sync   *url.URL // of /v1/sync
	http   *http.Client
	header http.Header // of every request
}

// Option sets what a Client sends, or how.
type Option func(*Client)

// WithToken sends token as Authorization: Bearer.
func WithToken(token string) Option { return withHeader("Authorization", "Bearer "+token) }

// WithClientID names the device or app as x-client-id: 1 to 255 bytes. Two
// devices that push the same mutations on the same cursor without a key are
// told apart by it, and by nothing else.
func WithClientID(id string) Option { return withHeader("x-client-id", id) }

// WithUser says whose log it is to a server without authentication, as
// X-User-Id.
func WithUser(user mutlog.User) Option { return withHeader("X-User-Id", string(user)) }

// WithHTTPClient makes the requests through h; without it,
// http.DefaultClient does.
func WithHTTPClient(h *http.Client) Option { return func(c *Client) { c.http = h } }

func withHeader(name, value string) Option {
	return func(c *Client) { c.header.Set(name, value) }
}

// New returns a client of the server at baseURL, such as
// https://sync.example.com. It sends nothing yet; its error is about baseURL.
func New(baseURL string, options ...Option) (*Client, error) {
	base, err := url.Parse(baseURL)
	if err != nil {
		return nil, fmt.Errorf("client: base URL: %w", err)
	}
	if base.Scheme != "http" && base.Scheme != "https" || base.Host == "" || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("client: base URL: want http(s)://host, perhaps with a path, and no more")
	}
	c := &Client{sync: base.JoinPath("v1", "sync"), http: http.DefaultClient, header: http.Header{}}
	for _, option := range options {
		option(c)
	}
	return c, nil
}

// Head returns the head of the log, or mutlog.Beginning while it is empty. To
// know the head is not to have what is before it: a device takes its cursor
// from pulls and pushes only.
func (c *Client) Head(ctx context.Context) (mutlog.Timestamp, error) {
	query := url.Values{"mutationsSince": {"-1"}, "metadataOnly": {"true"}} // the cursor is required and means nothing
	var data struct {
		Head *mutlog.Timestamp `json:"lastMutationAt"`
	}
	if _, err := c.exchange(ctx, http.MethodGet, query, nil, nil, &data); err != nil {
		return mutlog.Beginning, fmt.Errorf("head: %w", err)
	}
	head, err := headOf(data.Head)
	if err != nil {
		return head, fmt.Errorf("head: %w", err)
	}
	return head, nil
}

// headOf checks the head that an answer tells.
func headOf(head *mutlog.Timestamp) (mutlog.Timestamp, error) {
	if head == nil || *head < mutlog.Beginning || *head > mutlog.MaxTimestamp {
		return mutlog.Beginning, malformed("it tells no head of the log")
	}
	return *head, nil
}

// exchange sends one request and decodes the data of its answer into data. An
// answer that is cut does not decode: what it returns without an error was
// received to its end.
func (c *Client) exchange(ctx context.Context, method string, query url.Values, header http.Header, body io.Reader, data any) (http.Header, error) {
	target := *c.sync
	target.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(ctx, method, target.String(), body)
	if err != nil {
		return nil, err
	}
	for _, h := range []http.Header{c.header, header} {
		for name, values := range h {
			r.Header[name] = values
		}
	}
	response, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, errorOf(response, answer)
	}
	envelope := struct {
		Success bool `json:"success"`
		Data    any  `json:"data"`
	}{Data: data}
	if err := json.Unmarshal(answer, &envelope); err != nil {
		return nil, malformed(err.Error())
	}
	if !envelope.Success {
		return nil, malformed("it does not say that it is a success")
	}
	return response.Header, nil
}

// malformed says that an answer of status 200 is none of this protocol. What
// was asked for may have been done.
func malformed(what string) error {
	return errors.New("the answer is not what the protocol says: " + what)
}
