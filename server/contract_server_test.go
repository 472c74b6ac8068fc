package server_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tidemark"
	"tidemark/auth"
	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store/storetest"
)

// TestRoutesAreDocumented compares the route table with openapi.yaml.
func TestRoutesAreDocumented(t *testing.T) {
	s, _ := newServer(t)
	routes := s.Routes()
	slices.Sort(routes)
	if diff := cmp.Diff(documentRoutes(t), routes); diff != "" {
		t.Errorf("openapi.yaml (-) and the server (+) differ:\n%s", diff)
	}
}

// TestEveryAnswer brings about every answer that openapi.yaml describes, the
// errors in both their forms. That each fits is the contractTransport's matter.
func TestEveryAnswer(t *testing.T) {
	const (
		plain   = "application/json"
		problem = "application/problem+json"

		note  = `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"n":1}}]}`
		other = `{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"a"}]}`
	)
	s, failing := newServer(t)
	host := httptest.NewServer(s)
	defer host.Close()
	for _, accept := range []string{plain, problem} {
		for _, c := range []struct {
			method, uri, body string
			header            string // "Name: value", or ""
			failure           error  // of the store
			want              int
		}{
			{"GET", "/", "", "", nil, 200},
			{"GET", "/", "", "Accept: text/html", nil, 200},
			{"HEAD", "/", "", "", nil, 200},
			{"GET", "/livez", "", "", nil, 200},
			{"HEAD", "/livez", "", "", nil, 200},
			{"GET", "/readyz", "", "", nil, 200},
			{"HEAD", "/readyz", "", "", nil, 200},
			{"GET", "/readyz", "", "", errors.New("broken"), 503},
			{"GET", "/readyz", "", "", mutlog.ErrUnavailable, 503},
			{"HEAD", "/readyz", "", "", mutlog.ErrUnavailable, 503},
			{"GET", "/openapi.yaml", "", "", nil, 200},
			{"GET", "/openapi.yaml", "", "Accept-Encoding: zstd", nil, 200},
			{"HEAD", "/openapi.yaml", "", "", nil, 200},
			{"GET", "/openapi.yml", "", "", nil, 404},
			{"POST", "/v1/sync/", note, "", nil, 404},
			{"GET", "/v1%2Fsync?mutationsSince=0", "", "", nil, 404},
			{"DELETE", "/v1/sync", "", "", nil, 405},
			{"HEAD", "/v1/sync", "", "", nil, 405},
			{"OPTIONS", "/v1/sync", "", "", nil, 405},
			{"POST", "/livez", "", "", nil, 405},
			{"POST", "/readyz", "", "", nil, 405},

			{"GET", "/v1/sync/events", "", "X-User-Id: ", nil, 400},
			{"GET", "/v1/sync/events", "", "Origin: null", nil, 403},
			{"GET", "/v1/sync/events", "", "", errors.New("broken"), 500},
			{"GET", "/v1/sync/events", "", "", mutlog.ErrUnavailable, 503},
			{"POST", "/v1/sync/events", note, "", nil, 405},
			{"POST", "/v1/sync/events/ticket", "", "", nil, 200},
			{"POST", "/v1/sync/events/ticket", "", "X-User-Id: ", nil, 400},
			{"POST", "/v1/sync/events/ticket", "", "Origin: null", nil, 403},
			{"POST", "/v1/sync/events/ticket", "", "", errors.New("broken"), 500},
			{"POST", "/v1/sync/events/ticket", "", "", mutlog.ErrUnavailable, 503},

			{"GET", "/v1/sync/limits", "", "", nil, 200},
			{"GET", "/v1/sync/limits", "", "X-User-Id: ", nil, 400},
			{"POST", "/v1/sync/limits", note, "", nil, 405},
			{"GET", "/v1/sync/limits/", "", "", nil, 404},

			{"GET", "/v1/sync?mutationsSince=-1", "", "", nil, 200},
			{"GET", "/v1/sync?mutationsSince=0&metadataOnly=true", "", "", nil, 200},
			{"GET", "/v1/sync?mutationsSince=0&limit=1", "", "", nil, 200},
			{"GET", "/v1/sync?mutationsSince=0&page=1", "", "", nil, 200},
			{"GET", "/v1/sync?mutationsSince=0&history=true", "", "", nil, 200},
			{"GET", "/v1/sync?mutationsSince=0", "", "If-None-Match: *", nil, 304},
			{"GET", "/v1/sync", "", "", nil, 400},
			{"GET", "/v1/sync?mutationsSince=0", "", "Origin: null", nil, 403},
			{"POST", "/v1/sync?lastMutationAt=-1", note, "Origin: null", nil, 403},
			{"GET", "/v1/sync/limits", "", "Origin: null", nil, 403},
			{"OPTIONS", "/v1/sync", "", "Access-Control-Request-Method: POST", nil, 405},
			{"GET", "/v1/sync?mutationsSince=1", "", "", nil, 409},
			{"GET", "/v1/sync?mutationsSince=0&limit=0", "", "", nil, 422},
			{"GET", "/v1/sync?mutationsSince=0", "", "", errors.New("broken"), 500},
			{"GET", "/v1/sync?mutationsSince=0", "", "", mutlog.ErrUnavailable, 503},

			{"POST", "/v1/sync?lastMutationAt=0", note, "", nil, 409},
			{"POST", "/v1/sync?lastMutationAt=-1&merge=true", note, "Idempotency-Key: k", nil, 200},
			{"POST", "/v1/sync?lastMutationAt=-1", note, "Idempotency-Key: k", nil, 200},
			{"POST", "/v1/sync?lastMutationAt=-1", other, "Idempotency-Key: k", nil, 422},
			{"POST", "/v1/sync?lastMutationAt=-1", other, "", nil, 409},
			{"POST", "/v1/sync?lastMutationAt=-1", "{", "", nil, 400},
			{"POST", "/v1/sync?lastMutationAt=-1", strings.Repeat(" ", maxBody+1), "", nil, 413},
			{"POST", "/v1/sync?lastMutationAt=-1", note, "Content-Type: text/plain", nil, 415},
			{"POST", "/v1/sync?lastMutationAt=-1", "null", "", nil, 422},
			{"POST", "/v1/sync?lastMutationAt=-1", note, "", errors.New("broken"), 500},
			{"POST", "/v1/sync?lastMutationAt=-1", note, "", mutlog.ErrUnavailable, 503},
		} {
			req, err := http.NewRequest(c.method, host.URL+c.uri, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("X-User-Id", accept) // so that both start with an empty log
			req.Header.Set("Accept", accept)
			req.Header.Set("Content-Type", "application/json")
			if name, value, ok := strings.Cut(c.header, ": "); ok {
				req.Header.Set(name, value)
			}
			failing.err = c.failure
			res, err := contractTransport{t: t}.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if res.StatusCode != c.want {
				t.Errorf("%s %s: status %d, want %d", c.method, c.uri, res.StatusCode, c.want)
			}
			if got := res.Header.Get("Content-Type"); c.want >= 400 && got != accept {
				t.Errorf("%s %s: Content-Type %q, asked for %q", c.method, c.uri, got, accept)
			}
		}
	}
}

const maxBody = 64 << 10

// newServer returns a server on a new store, which can be made to fail.
func newServer(t testing.TB, change ...func(*server.Options)) (*server.Server, *failingStore) {
	logs := storetest.Open(t)
	t.Cleanup(func() { logs.Close() })
	failing := &failingStore{Store: logs}
	options := server.Options{
		Log:          mutlog.New(failing, mutlog.DefaultLimits),
		Limits:       mutlog.DefaultLimits,
		MaxBodyBytes: maxBody,
		OpenAPI:      tidemark.OpenAPI,
		Logger:       slog.New(slog.DiscardHandler),
	}
	authority, err := auth.NewAuthority(context.Background(), failing, nil, options.Logger)
	if err != nil {
		t.Fatal(err)
	}
	options.Tickets = authority
	for _, f := range change {
		f(&options)
	}
	return server.New(options), failing
}

// failingStore is a store that answers with err while there is one. Set it
// between requests only.
type failingStore struct {
	mutlog.Store
	err error
}

func (f *failingStore) View(ctx context.Context, user mutlog.User, fn func(mutlog.Reader) error) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.View(ctx, user, fn)
}

func (f *failingStore) Update(ctx context.Context, user mutlog.User, fn func(mutlog.Tx) error) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.Update(ctx, user, fn)
}

func (f *failingStore) UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func([]byte) ([]byte, error)) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.UpdateRecord(ctx, key, fn)
}
