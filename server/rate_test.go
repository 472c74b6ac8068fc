package server_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"tidemark/auth"
	"tidemark/client"
	"tidemark/server"
)

const tooMany = "Too many requests, please try again later"

// One request too many is a 429 that says when to come again (abuse row 141),
// and changes nothing; who waits for that long is let in.
func TestUserRate(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(o *server.Options) { o.Rates.User = server.Rate{Requests: 3, Window: 6 * time.Second} })
	for i := 3; i > 0; i-- {
		got := r.get("mutationsSince=0", "X-User-Id: jane")
		if want := fmt.Sprintf(`"user";r=%d;t=`, i-1); got.StatusCode != 200 || !strings.HasPrefix(got.Header.Get("RateLimit"), want) {
			t.Errorf("%d: RateLimit %q, want %s…", got.StatusCode, got.Header.Get("RateLimit"), want)
		}
		if got.Header.Get("RateLimit-Policy") != `"user";q=3;w=6` {
			t.Errorf("RateLimit-Policy %q", got.Header.Get("RateLimit-Policy"))
		}
	}
	r.refused(refusal{"POST", "/v1/sync?lastMutationAt=-1", good, []string{"X-User-Id: jane"}, 429, tooMany, `{"limit":"user"}`})
	// The bucket is looked at before the request is: after 404 and 405, before
	// 415, 413, 400 and 422.
	r.refused(refusal{"POST", "/v1/sync", "x", []string{"X-User-Id: jane", "Content-Type: text/plain"}, 429, tooMany, `{"limit":"user"}`})
	if got := r.send("PUT", "/v1/sync", "", "X-User-Id: jane"); got.StatusCode != 405 {
		t.Errorf("PUT: %d", got.StatusCode)
	}
	got := r.get("mutationsSince=0", "X-User-Id: jane")
	wait, err := strconv.Atoi(got.Header.Get("Retry-After"))
	if got.StatusCode != 429 || err != nil || wait < 1 || wait > 2 || got.Header.Get("RateLimit") != fmt.Sprintf(`"user";r=0;t=%d`, wait) {
		t.Fatalf("%d, Retry-After %q, RateLimit %q", got.StatusCode, got.Header.Get("Retry-After"), got.Header.Get("RateLimit"))
	}
	if got := r.get("mutationsSince=0", "X-User-Id: joe"); got.StatusCode != 200 {
		t.Errorf("another user: %d", got.StatusCode)
	}
	time.Sleep(time.Duration(wait) * time.Second)
	if got := r.get("mutationsSince=-1", "X-User-Id: jane"); got.StatusCode != 200 || !strings.Contains(got.body, `"lastMutationAt":-1`) {
		t.Errorf("after Retry-After: %d %s", got.StatusCode, got.body)
	}
}

// Addresses are counted one by one, those of IPv6 by /64, whatever a client
// says about itself (abuse row 44); those that are exempt are not counted.
func TestAddressRate(t *testing.T) {
	hour := server.Rate{Requests: 2, Window: time.Hour}
	r := newRig(t, func(o *server.Options) {
		o.Rates = server.Rates{Peer: hour, Exempt: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}}
		o.Proxies.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	ask := func(from string) int {
		return r.send("GET", "/v1/sync?mutationsSince=0", "", "X-Forwarded-For: "+from).StatusCode
	}
	for _, c := range []struct {
		from string
		want int
	}{
		{"203.0.113.1", 200}, {"203.0.113.1", 200}, {"203.0.113.1", 429},
		{"6.6.6.6, 203.0.113.1", 429}, {"203.0.113.2, 203.0.113.1", 429}, {strings.Repeat("6.6.6.6,", 1000) + "203.0.113.1", 429},
		{"203.0.113.2", 200},
		{"2001:db8::1", 200}, {"2001:db8::2", 200}, {"2001:db8::ffff:3", 429}, {"2001:db8:0:1::1", 200},
		{"198.51.100.1", 200}, {"198.51.100.1", 200}, {"198.51.100.1", 200},
	} {
		if got := ask(c.from); got != c.want {
			t.Errorf("%.40s: %d, want %d", c.from, got, c.want)
		}
	}
	refused := []string{"X-Forwarded-For: 203.0.113.1"}
	for _, uri := range []string{"/v1/sync/limits", "/", "/openapi.yaml"} {
		r.refused(refusal{"GET", uri, "", refused, 429, tooMany, `{"limit":"address"}`})
	}
	if got := r.send("GET", "/livez", "", refused...); got.StatusCode != 200 {
		t.Errorf("/livez: %d", got.StatusCode) // what watches the server must get through
	}

	// Where no proxy is trusted the header is not read.
	r = newRig(t, func(o *server.Options) { o.Rates.Peer = hour })
	for i, want := range []int{200, 200, 429} {
		if got := r.send("GET", "/v1/sync?mutationsSince=0", "", fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", i)); got.StatusCode != want {
			t.Errorf("request %d: %d, want %d", i, got.StatusCode, want)
		}
	}
}

// The line of a request tells the address that it was counted for.
func TestLogTellsPeer(t *testing.T) {
	r := newRig(t, func(o *server.Options) {
		o.Proxies.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	for header, want := range map[string]string{"X-Forwarded-For: 6.6.6.6, 203.0.113.7": "203.0.113.7", "X-Other: 1.2.3.4": "127.0.0.1"} {
		r.send("GET", "/livez", "", header)
		if _, lines := r.log.take(t, 1); lines[0]["peer"] != want {
			t.Errorf("peer %v, want %s", lines[0]["peer"], want)
		}
	}
}

// TestEveryTooMany brings about each 429 that openapi.yaml describes, in both
// forms; that it fits is the contractTransport's matter.
func TestEveryTooMany(t *testing.T) {
	s, _ := newServer(t, func(o *server.Options) { o.Rates.Peer = server.Rate{Requests: 1, Window: time.Hour} })
	host := httptest.NewServer(s)
	defer host.Close()
	for _, accept := range []string{"application/json", "application/problem+json"} {
		for _, route := range []string{"GET /v1/sync?mutationsSince=0", "GET /v1/sync?mutationsSince=0", "POST /v1/sync?lastMutationAt=-1",
			"GET /v1/sync/limits", "POST /v1/sync/events/ticket", "GET /", "HEAD /", "GET /openapi.yaml", "HEAD /openapi.yaml"} {
			method, uri, _ := strings.Cut(route, " ")
			req, err := http.NewRequest(method, host.URL+uri, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept", accept)
			if _, err := (contractTransport{t: t}).RoundTrip(req); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestParseRate(t *testing.T) {
	for text, want := range map[string]server.Rate{
		"0": {}, "500/10s": {Requests: 500, Window: 10 * time.Second}, "1/1h": {Requests: 1, Window: time.Hour},
	} {
		var got server.Rate
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "500", "500/", "/10s", "0/10s", "-1/10s", "500/10", "500/1ms", "500/48h", "1.5/1s", "500/10s/1", "2000000000/1s"} {
		if err := new(server.Rate).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is a rate", text)
		}
	}
}

// A proxy that nobody has listed is told of once, when it is close by.
func TestUntrustedProxyIsNoticed(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.Rates.User = server.Rate{Requests: 100, Window: time.Second} })
	r.get("mutationsSince=0")
	r.log.take(t, 1)
	r.get("mutationsSince=0", "X-Forwarded-For: 203.0.113.1")
	if _, lines := r.log.take(t, 2); lines[0]["level"] != "WARN" || lines[0]["peer"] != "127.0.0.1" {
		t.Errorf("the log says %v", lines[0])
	}
	r.get("mutationsSince=0", "X-Forwarded-For: 203.0.113.1")
	r.log.take(t, 1)
}

// Who has failed to authenticate too often waits, whatever the next token is;
// others, and whoever brings good ones, are not counted.
func TestFailedAuthenticationRate(t *testing.T) {
	s, _ := newServer(t, func(o *server.Options) {
		o.Rates = server.Rates{Failed: server.Rate{Requests: 3, Window: time.Hour}, Exempt: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/32")}}
		o.Authenticate = func(r *http.Request) (*auth.Principal, error) {
			switch r.Header.Get("Authorization") {
			case "Bearer good":
				return &auth.Principal{User: "jane", Method: auth.Token, Scopes: []string{auth.ScopeSync}}, nil
			case "Bearer ":
				return nil, errors.New("away") // whose fault it is not
			case "":
				return nil, auth.ErrUnauthenticated
			}
			return nil, fmt.Errorf("%w: guessed", auth.ErrInvalidToken)
		}
	})
	ask := func(from, token string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", "/v1/sync?mutationsSince=0", nil)
		r.RemoteAddr = from + ":1"
		if token != "none" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		return w
	}
	for i, c := range []struct {
		from, token string
		want        int
	}{
		{"203.0.113.1", "good", 200}, {"203.0.113.1", "", 500}, {"203.0.113.1", "good", 200}, {"203.0.113.1", "", 500},
		{"203.0.113.1", "bad", 401}, {"203.0.113.1", "good", 200}, {"203.0.113.1", "none", 401}, {"203.0.113.1", "worse", 401},
		{"203.0.113.1", "worst", 429}, {"203.0.113.1", "good", 429},
		{"203.0.113.2", "good", 200}, {"203.0.113.2", "bad", 401},
		{"198.51.100.1", "bad", 401}, {"198.51.100.1", "bad", 401}, {"198.51.100.1", "bad", 401}, {"198.51.100.1", "bad", 401},
	} {
		got := ask(c.from, c.token)
		if got.Code != c.want {
			t.Errorf("request %d, %s with %q: %d, want %d", i, c.from, c.token, got.Code, c.want)
		}
		if got.Code == 429 && (!strings.Contains(got.Body.String(), `"limit":"authentication"`) || got.Header().Get("Retry-After") != "1200") {
			t.Errorf("Retry-After %q: %s", got.Header().Get("Retry-After"), got.Body)
		}
	}
}

// The Go client tells how long to wait.
func TestClientTellsRetryAfter(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.Rates.User = server.Rate{Requests: 1, Window: time.Hour} })
	c := r.client("jane")
	if _, err := c.Head(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := c.Head(t.Context())
	var refused *client.Error
	if !errors.As(err, &refused) || refused.Status != 429 || refused.Code != "RateLimitError" || refused.RetryAfter < 59*time.Minute || refused.RetryAfter > time.Hour {
		t.Errorf("%+v", err)
	}
	_, err = r.client("joe").Push(t.Context(), client.Push{Base: 5})
	if !errors.As(err, &refused) || refused.RetryAfter != 0 {
		t.Errorf("%+v", err)
	}
}
