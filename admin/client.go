package admin

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
	"time"

	"tidemark/auth"
	"tidemark/export"
	"tidemark/mutlog"
	"tidemark/store"
)

// Client asks the handler of one store.
type Client struct {
	http  *http.Client
	close func() error
}

// Connect returns a client for the store that url names, as serve --store has
// it. If a server has the store it asks that, else it opens the store, which
// must then be closed again: a store that no server serves is not created,
// unless create is set.
func Connect(ctx context.Context, url string, create bool) (*Client, error) {
	if store.IsDatabase(url) { // which any number of processes may open
		return open(ctx, url)
	}
	c, err := dial(ctx, url)
	if c != nil || err != nil {
		return c, err
	}
	if err := exists(url); err != nil && !create {
		return nil, err
	}
	c, err = open(ctx, url)
	if !errors.Is(err, store.ErrInUse) {
		return c, err
	}
	// A server may have started meanwhile.
	if c, dialErr := dial(ctx, url); c != nil || dialErr != nil {
		return c, dialErr
	}
	return nil, fmt.Errorf("%w, which does not answer at %s: it is checking the store, ending, or no server", err, SocketPath(url))
}

// dial returns a client for the server that has the store at path, or nil if
// nobody listens there.
func dial(ctx context.Context, path string) (*Client, error) {
	socket := SocketPath(path)
	conn, err := dialSocket(ctx, socket)
	if isNobody(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking the server that has the store: %w", err)
	}
	conn.Close()
	t := &http.Transport{ResponseHeaderTimeout: time.Minute, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialSocket(ctx, socket)
	}}
	return &Client{http: &http.Client{Transport: t}, close: func() error { t.CloseIdleConnections(); return nil }}, nil
}

// leaveTimeout bounds how long a handler in this process may take to end.
const leaveTimeout = 10 * time.Second

// open returns a client for a handler in this process.
func open(ctx context.Context, url string) (*Client, error) {
	s, err := store.Open(url, store.BoltOptions{})
	if err != nil {
		return nil, err
	}
	logger := slog.New(slog.DiscardHandler) // errors come back as answers
	authority, err := auth.NewAuthority(ctx, s, nil, logger)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	o := Options{Store: s, Authority: authority, Logger: logger}
	if store.IsDatabase(url) {
		o.Settle = 3 * export.HoldsEvery // servers may be at work on it
	}
	l := newPipe()
	h := &http.Server{ReadHeaderTimeout: time.Minute, Handler: NewHandler(o)}
	go h.Serve(l)
	t := &http.Transport{DialContext: l.dial}
	return &Client{http: &http.Client{Transport: t}, close: func() error {
		t.CloseIdleConnections()
		// What was interrupted still has to remove what it has made.
		ctx, cancel := context.WithTimeout(context.Background(), leaveTimeout)
		defer cancel()
		return errors.Join(h.Shutdown(ctx), s.Close())
	}}, nil
}

// Close ends the client, and closes the store if it has opened it.
func (c *Client) Close() error { return c.close() }

// CreateToken makes an API token.
func (c *Client) CreateToken(ctx context.Context, token NewToken) (made CreatedToken, err error) {
	err = c.do(ctx, http.MethodPost, "/v1/tokens", token, &made)
	return made, err
}

// Tokens returns all API tokens, the oldest first.
func (c *Client) Tokens(ctx context.Context) ([]auth.TokenInfo, error) {
	var list TokenList
	err := c.do(ctx, http.MethodGet, "/v1/tokens", nil, &list)
	return list.Tokens, err
}

// RevokeToken removes an API token. When it returns, nobody gets in with it.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil, &struct{}{})
}

// RevokeTokens removes all API tokens of user, and makes the JWTs of user that
// were issued until now not count any more.
func (c *Client) RevokeTokens(ctx context.Context, user mutlog.User) (revoked int, err error) {
	var answer RevokedTokens
	err = c.do(ctx, http.MethodDelete, "/v1/tokens?user="+url.QueryEscape(string(user)), nil, &answer)
	return answer.Revoked, err
}

// do makes a request with the JSON of in, if it is not nil, and decodes the
// answer into out.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	res, err := c.request(ctx, method, path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(out); err != nil {
		return fmt.Errorf("the answer of the server cannot be read: %w", err)
	}
	return nil
}

// request makes a request and returns its answer, of which the caller closes the
// body, or the error that it is.
func (c *Client) request(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, "http://tidemark"+path, body)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("asking the server that has the store: %w", err)
	}
	if res.StatusCode == http.StatusOK {
		return res, nil
	}
	defer res.Body.Close()
	var refusal struct {
		Error Error `json:"error"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxBodyBytes)).Decode(&refusal); err != nil || refusal.Error.Message == "" {
		refusal.Error = Error{Message: "the server that has the store answers " + res.Status + "; is it of another version?"}
	}
	refusal.Error.Status = res.StatusCode
	return nil, &refusal.Error
}
