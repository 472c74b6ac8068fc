package client_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tidemark/client"
	"tidemark/mutlog"
)

// answering returns a client whose requests are answered by f.
func answering(t *testing.T, f func() (status int, body string)) *client.Client {
	t.Helper()
	c, err := client.New("http://example.org", client.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		status, body := f()
		return &http.Response{StatusCode: status, Header: http.Header{"X-Request-Id": {"id"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	})}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestNewRefuses(t *testing.T) {
	for _, base := range []string{"", "example.org", "localhost:8080", "ftp://example.org", "http://", "/v1/sync", "http://example.org?x=1", "http://example.org#x", "http://[::1", "http://a b"} {
		if _, err := client.New(base); err == nil {
			t.Errorf("%q was accepted", base)
		}
	}
}

// What each option and each field puts on the wire.
func TestRequests(t *testing.T) {
	var got *http.Request
	var body string
	c, err := client.New("https://example.org/base/", client.WithToken("t"), client.WithClientID("phone"), client.WithUser("jane"),
		client.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
			got, body = r, ""
			if r.Body != nil {
				b, _ := io.ReadAll(r.Body)
				body = string(b)
			}
			return nil, errors.New("that is all")
		})}))
	if err != nil {
		t.Fatal(err)
	}
	check := func(call, method, uri, wantBody string, headers map[string]string) {
		t.Helper()
		if got.Method != method || got.URL.String() != uri || body != wantBody {
			t.Errorf("%s: %s %s %s", call, got.Method, got.URL, body)
		}
		want := http.Header{"Authorization": {"Bearer t"}, "X-Client-Id": {"phone"}, "X-User-Id": {"jane"}}
		for name, value := range headers {
			want.Set(name, value)
		}
		if diff := cmp.Diff(want, got.Header); diff != "" {
			t.Errorf("%s: %s", call, diff)
		}
	}
	c.Head(ctx)
	check("Head", "GET", "https://example.org/base/v1/sync?metadataOnly=true&mutationsSince=-1", "", nil)

	c.Push(ctx, client.Push{Base: -1})
	check("an empty push", "POST", "https://example.org/base/v1/sync?lastMutationAt=-1", `{"mutations":[]}`, map[string]string{"Content-Type": "application/json"})

	c.Push(ctx, client.Push{Base: 1700000000000, Key: "k", Merge: true, Minimal: true, Mutations: []mutlog.Mutation{
		{Type: mutlog.Create, Resource: "NOTE", Data: []byte(`{ "a": "<\u00e9>" }`)}, {Type: mutlog.Delete, Resource: "NOTE", ResourceID: `"`, Timestamp: 5}}})
	check("a push with everything", "POST", "https://example.org/base/v1/sync?lastMutationAt=1700000000000&merge=true",
		`{"mutations":[{"type":"CREATE","resource":"NOTE","data":{ "a": "<\u00e9>" }},{"type":"DELETE","resource":"NOTE","resourceId":"\""}]}`,
		map[string]string{"Content-Type": "application/json", "Idempotency-Key": "k", "Prefer": "return=minimal"})

	for range c.Pull(ctx, client.Query{Since: 5}).All() {
	}
	check("a pull", "GET", "https://example.org/base/v1/sync?limit=500&mutationsSince=5", "", nil)

	for range c.Pull(ctx, client.Query{Since: -1, PageSize: 7, Resources: []string{"NOTE", "TAG"}, History: true}).All() {
	}
	check("a pull with everything", "GET", "https://example.org/base/v1/sync?history=true&limit=7&mutationsSince=-1&resources=NOTE%2CTAG", "", nil)
}

// A push that is sent again as it was carries no key of its own making: with a
// new one each time it would be another push each time, and be applied again.
func TestPushAgainIsTheSamePush(t *testing.T) {
	c := newClient(t, nil)
	p := client.Push{Base: mutlog.Beginning, Merge: true, Mutations: []mutlog.Mutation{note(mutlog.Create, "", `{}`)}}
	first, err := c.Push(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.Push(ctx, p)
	if err != nil || !second.Replayed || second.Head != first.Head {
		t.Errorf("sent again: %+v %v", second, err)
	}
	// With a key it may have pulled in between.
	p = client.Push{Base: first.Head, Key: client.NewKey(), Mutations: p.Mutations}
	if first, err = c.Push(ctx, p); err != nil {
		t.Fatal(err)
	}
	p.Base = pushOnHead(t, c, note(mutlog.Delete, "x", ""))
	if second, err = c.Push(ctx, p); err != nil || !second.Replayed || second.Head != first.Head || second.Head >= p.Base {
		t.Errorf("sent again on another cursor: %+v %v", second, err)
	}
	if a, b := client.NewKey(), client.NewKey(); a == b || len(a) != 36 {
		t.Errorf("keys %s and %s", a, b)
	}
}

// Answers of the protocol's errors become its errors, and what comes from
// elsewhere an Error that nothing is found in.
func TestErrors(t *testing.T) {
	body := func(code, details string) string {
		return `{"success":false,"type":"x","message":"m","error":{"code":"` + code + `","message":"m","details":` + details + `}}`
	}
	var (
		outOfSync *mutlog.OutOfSyncError
		invalid   *mutlog.ValidationError
	)
	is := func(target error) func(error) bool { return func(err error) bool { return errors.Is(err, target) } }
	as := func(target any) func(error) bool { return func(err error) bool { return errors.As(err, target) } }
	known := map[string]func(error) bool{"OutOfSyncError": as(&outOfSync), "ValidationError": as(&invalid),
		"IdempotencyKeyReuseError": is(mutlog.ErrKeyReused), "UnavailableError": is(mutlog.ErrUnavailable)}
	for _, c := range []struct {
		status              int
		body, code, message string
		found               string // the one of known that it is
	}{
		{409, body("OutOfSyncError", `{"reason":"stale_cursor","clientLastMutationAt":1,"serverLastMutationAt":2,"conflicts":[]}`), "OutOfSyncError", "m", "OutOfSyncError"},
		{409, body("OutOfSyncError", `"none"`), "OutOfSyncError", "m", ""},
		{422, body("ValidationError", `{"errors":[{"member":"limit","message":"m"}]}`), "ValidationError", "m", "ValidationError"},
		{422, body("ValidationError", `{}`), "ValidationError", "m", "ValidationError"},
		{422, body("IdempotencyKeyReuseError", `{}`), "IdempotencyKeyReuseError", "m", "IdempotencyKeyReuseError"},
		{503, body("UnavailableError", `{}`), "UnavailableError", "m", "UnavailableError"},
		{500, body("InternalError", `{}`), "InternalError", "m", ""},
		{401, body("UnauthorizedError", `{}`), "UnauthorizedError", "m", ""},
		{429, body("RateLimitError", `{}`), "RateLimitError", "m", ""},
		{418, body("NewError", `[1]`), "NewError", "m", ""},
		{502, "<html>Bad Gateway</html>", "", "Bad Gateway", ""},
		{503, "", "", "Service Unavailable", ""},
		{404, `{"error":"not found"}`, "", "Not Found", ""},
		{409, `{"success":false}`, "", "Conflict", ""},
		{301, "", "", "Moved Permanently", ""},
		{204, "", "", "No Content", ""},
		{206, `{"success":true,"data":{"lastMutationAt":1}}`, "", "Partial Content", ""},
	} {
		outOfSync, invalid = nil, nil
		head, err := answering(t, func() (int, string) { return c.status, c.body }).Head(ctx)
		var got *client.Error
		if !errors.As(err, &got) || got.Status != c.status || got.Code != c.code || got.Message != c.message || got.RequestID != "id" || head != mutlog.Beginning {
			t.Errorf("%d %s: %#v (%v)", c.status, c.body, got, err)
		}
		for name, found := range known {
			if found(err) != (name == c.found) {
				t.Errorf("%d %s is %s: %v", c.status, c.body, name, found(err))
			}
		}
		if invalid != nil && invalid.Error() != "m" || outOfSync != nil && (outOfSync.Client != 1 || outOfSync.Server != 2 || outOfSync.Conflicts == nil) {
			t.Errorf("%d %s: %+v %+v", c.status, c.body, invalid, outOfSync)
		}
	}
}

// An answer that is not what was asked for is an error, not a success with
// holes; the push may have been applied.
func TestPushRefusesOddAnswers(t *testing.T) {
	const entry = `{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{},"timestamp":1}`
	for name, answer := range map[string]string{
		"nothing":                 ``,
		"something else":          `<html>`,
		"cut":                     `{"success":true,"data":{"lastMutationAt":1,"mutations":[` + entry + `]`,
		"more":                    `{"success":true,"data":{"lastMutationAt":1,"mutations":[` + entry + `],"changes":[]}}{}`,
		"no success":              `{"data":{"lastMutationAt":1,"mutations":[` + entry + `],"changes":[]}}`,
		"no head":                 `{"success":true,"data":{"mutations":[` + entry + `],"changes":[]}}`,
		"a head in a string":      `{"success":true,"data":{"lastMutationAt":"1","mutations":[` + entry + `],"changes":[]}}`,
		"no acknowledgement":      `{"success":true,"data":{"lastMutationAt":1,"mutations":[],"changes":[]}}`,
		"two acknowledgements":    `{"success":true,"data":{"lastMutationAt":1,"mutations":[` + entry + `,` + entry + `],"changes":[]}}`,
		"of another type":         `{"success":true,"data":{"lastMutationAt":1,"mutations":[` + strings.Replace(entry, "CREATE", "UPDATE", 1) + `],"changes":[]}}`,
		"of another resource":     `{"success":true,"data":{"lastMutationAt":1,"mutations":[` + strings.Replace(entry, "NOTE", "TAG", 1) + `],"changes":[]}}`,
		"of another id":           `{"success":true,"data":{"lastMutationAt":1,"mutations":[` + strings.Replace(entry, `"a"`, `"b"`, 1) + `],"changes":[]}}`,
		"of no id":                `{"success":true,"data":{"lastMutationAt":1,"mutations":[{"type":"CREATE","resource":"NOTE","timestamp":1}],"changes":[]}}`,
		"a merge without changes": `{"success":true,"data":{"lastMutationAt":1,"mutations":[` + entry + `]}}`,
	} {
		c := answering(t, func() (int, string) { return 200, answer })
		pushed, err := c.Push(ctx, client.Push{Base: -1, Merge: true, Mutations: []mutlog.Mutation{note(mutlog.Create, "a", `{}`)}})
		if err == nil || pushed != nil {
			t.Errorf("%s: %+v %v", name, pushed, err)
		}
	}
}
