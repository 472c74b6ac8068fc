package server

// The corpora in testdata/fuzz are from runs of some minutes each, and every `go test` plays them;
// `go test -fuzz=FuzzQuery ./server` goes on from there.

import (
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"tidemark/mutlog"
)

// FuzzQuery: a query is refused with 400 or 422 and nothing else; one that is taken means what it says, read in the
// plainest way.
func FuzzQuery(f *testing.F) {
	for _, q := range []string{
		"mutationsSince=0", "mutationsSince=-1&limit=10&after=5", "mutationsSince=1e3&page=2&limit=100.0", "mutationsSince=0&resources=A,B_1&history=true",
		"mutationsSince=0&metadataOnly=true", "mutationsSince=0&mutationsSince=1", "mutations%53ince=0;x", "mutationsSince=%zz", "mutationsSince=0&limit=0&page=x",
		"lastMutationAt=-1&merge=true", "lastMutationAt=1.5&merge=yes", "mutationsSince=0&page=1&after=1&history=true&metadataOnly=true", strings.Repeat("&", 101),
	} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		r := &http.Request{Method: "GET", URL: &url.URL{Path: "/v1/sync", RawQuery: raw}, Header: http.Header{}}
		q, err := decodePull(r, mutlog.Access{})
		refusedWell(t, raw, err)
		if err == nil {
			values := plain(t, raw)
			number := func(name string, otherwise int64) int64 {
				if !values.Has(name) {
					return otherwise
				}
				n, err := mutlog.ParseNumber(values.Get(name), -1, int64(mutlog.MaxTimestamp))
				if err != nil {
					t.Fatalf("%q: took %s=%q: %v", raw, name, values.Get(name), err)
				}
				return n
			}
			limit := int64(0)
			if values.Has("page") {
				limit = pageSize
			}
			want := mutlog.Query{Since: mutlog.Timestamp(number("mutationsSince", -99)), After: mutlog.Timestamp(number("after", -1)),
				Limit: int(number("limit", limit)), Page: number("page", 0), History: values.Get("history") == "true"}
			if values.Has("resources") {
				want.Resources = strings.Split(values.Get("resources"), ",")
			}
			if q.Since != want.Since || q.After != want.After || q.Limit != want.Limit || q.Page != want.Page || q.History != want.History ||
				!slices.Equal(q.Resources, want.Resources) || q.metadataOnly != (values.Get("metadataOnly") == "true") ||
				q.wait != time.Duration(number("wait", 0))*time.Second {
				t.Fatalf("%q means %+v, want %+v", raw, q, want)
			}
			if q.Limit < 0 || q.Limit > maxPageSize || q.Page < 0 || q.wait > maxWait*time.Second {
				t.Fatalf("%q: out of bounds: %+v", raw, q)
			}
		}

		p, err := decodePush(r, []byte(`{"mutations":[]}`), mutlog.DefaultLimits, mutlog.Access{})
		refusedWell(t, raw, err)
		if err == nil {
			values := plain(t, raw)
			base, err := mutlog.ParseCursor(values.Get("lastMutationAt"))
			if err != nil || p.Base != base || p.Merge != (values.Get("merge") == "true") {
				t.Fatalf("%q means %+v; %v", raw, p, err)
			}
		}
	})
}

func plain(t *testing.T, raw string) url.Values {
	values, err := url.ParseQuery(raw)
	if err != nil {
		t.Fatalf("took %q: %v", raw, err)
	}
	for _, name := range []string{"mutationsSince", "lastMutationAt", "limit", "page", "after", "resources", "history", "merge", "metadataOnly"} {
		if len(values[name]) > 1 && !(name == "merge" || name == "lastMutationAt" || values.Has("lastMutationAt")) {
			t.Fatalf("took %q, which has %s %d times", raw, name, len(values[name]))
		}
	}
	return values
}

func refusedWell(t *testing.T, raw string, err error) {
	var request *requestError
	var invalid *mutlog.ValidationError
	if err != nil && !errors.As(err, &request) && !(errors.As(err, &invalid) && len(invalid.Faults) > 0) {
		t.Fatalf("%q is refused with %#v", raw, err)
	}
}

// FuzzHeaders: headers are read without a panic, and a request never gets a user, key or client that breaks the rules.
func FuzzHeaders(f *testing.F) {
	f.Add("a", "k", "c", "application/json; charset=utf-8", "return=minimal", "application/problem+json;q=0.5,*/*", "id")
	f.Add("\x7f", `""`, "\xff", ";=", ",;=\"", "a/b;q=NaN", "\x00")
	f.Fuzz(func(t *testing.T, user, key, client, contentType, prefer, accept, id string) {
		h := http.Header{"X-User-Id": {user}, "Idempotency-Key": {key}, "X-Client-Id": {client}, "Content-Type": {contentType}, "Prefer": {prefer}, "Accept": {accept},
			"X-Request-Id": {id}}
		r := &http.Request{Method: "POST", URL: &url.URL{RawQuery: "lastMutationAt=-1"}, Header: h}
		if who, err := OpenUser(r); err == nil && (len(who.User) < 1 || len(who.User) > 255 || strings.ContainsFunc(string(who.User), func(r rune) bool { return r < ' ' || r == 0x7f })) {
			t.Fatalf("the user is %q", who.User)
		}
		if p, err := decodePush(r, []byte(`{"mutations":[]}`), mutlog.DefaultLimits, mutlog.Access{}); err == nil && (len(p.Key) > 255 || !printableASCII(p.Key) || p.Key == `""` || len(p.Client) > 255) {
			t.Fatalf("the key is %q, the client %q", p.Key, p.Client)
		}
		isJSON(h)
		prefersMinimal(r)
		asksForProblem(r)
		if got := requestID(r); !printableASCII(got) || len(got) > 128 {
			t.Fatalf("the id is %q", got)
		}
	})
}
