package server_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"tidemark/server"
)

const (
	foreignPage = "A server without authentication does not answer web pages of other origins; --cors-origin lets one in"
	foreignHost = "A server without authentication answers to this machine's own names and addresses only, not to the host "
)

// A page that a browser on this machine shows can neither read nor write an
// open server, whatever it does (abuse rows 44 to 46); programs can.
func TestWebPagesAreKeptOut(t *testing.T) {
	const app = "https://app.example"
	r := newRig(t, func(o *server.Options) {
		o.AllowedHosts = []string{"Notes.Example."}
		o.Origins = []string{app}
	})
	_, port, _ := strings.Cut(r.addr, ":")
	for _, c := range []struct {
		host    string
		headers []string
		refused string // the header that told, or ""
	}{
		{"", nil, ""},
		{"localhost", nil, ""},
		{"LOCALHOST:1", nil, ""},
		{"localhost.", nil, ""},
		{"app.localhost:80", nil, ""},
		{"127.0.0.1", nil, ""},
		{"127.8.9.10:4", nil, ""},
		{"[::1]:" + port, nil, ""},
		{"[::1]", nil, ""},
		{"[::ffff:127.0.0.1]", nil, ""},
		{"notes.example", nil, ""},
		{"NOTES.example.:443", nil, ""},

		// DNS rebinding: the name of a page that was made to point here.
		{"evil.example", nil, "Host"},
		{"evil.example:" + port, nil, "Host"},
		{"127.0.0.1.evil.example", nil, "Host"},
		{"localhost.evil.example", nil, "Host"},
		{"evillocalhost", nil, "Host"},
		{"notes.example.evil.example", nil, "Host"},
		{"192.168.1.5", nil, "Host"}, // no address of the interface that it listens on
		{"0.0.0.0", nil, "Host"},
		{"[2001:db8::1]:1", nil, "Host"},
		{"2130706433", nil, "Host"},
		{"0177.0.0.1", nil, "Host"},
		{"evil.example", []string{"Origin: http://evil.example", "Sec-Fetch-Site: same-origin"}, "Host"},
		{"evil.example", []string{"Origin: " + app}, "Host"},

		// A page of another origin, which asks for the true name.
		{"", []string{"Origin: http://evil.example"}, "Origin"},
		{"", []string{"Origin: null"}, "Origin"},
		{"", []string{"Origin: null", "Authorization: Bearer x"}, "Origin"},
		{"", []string{"Origin:"}, "Origin"},
		{"", []string{"Origin: *"}, "Origin"},
		{"", []string{"Origin: http://127.0.0.1"}, "Origin"}, // another port
		{"", []string{"Origin: http://localhost:" + port}, "Origin"},
		{"", []string{"Origin: http://" + r.addr, "Origin: http://evil.example"}, "Origin"},
		{"", []string{"Origin: http://" + r.addr + ".evil.example"}, "Origin"},
		{"", []string{"Origin: http://evil.example", "Sec-Fetch-Site: same-origin"}, "Origin"},
		{"", []string{"Origin: http://app.example"}, "Origin"}, // another scheme
		{"", []string{"Origin: https://app.example.evil.example"}, "Origin"},
		{"", []string{"Sec-Fetch-Site: cross-site"}, "Sec-Fetch-Site"},
		{"", []string{"Sec-Fetch-Site: same-site"}, "Sec-Fetch-Site"},
		{"", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate"}, "Sec-Fetch-Site"},
		{"", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Site: cross-site"}, "Sec-Fetch-Site"},

		// The server's own pages, the address bar, and what the operator allows.
		{"", []string{"Origin: http://" + r.addr, "Sec-Fetch-Site: same-origin"}, ""},
		{"localhost:" + port, []string{"Origin: http://localhost:" + port}, ""},
		{"", []string{"Sec-Fetch-Site: none"}, ""},
		{"", []string{"Origin: " + app, "Sec-Fetch-Site: cross-site"}, ""},
		{"notes.example", []string{"Origin: " + app}, ""},
	} {
		for _, method := range []string{"GET", "POST"} {
			uri, body := "/v1/sync?mutationsSince=0", ""
			if method == "POST" {
				uri, body = "/v1/sync?lastMutationAt=-1", `{"mutations":[]}`
			}
			got := r.sendTo(c.host, method, uri, body, c.headers...)
			want, message := "", foreignPage
			if c.refused == "Host" {
				message = foreignHost + c.host + "; --allowed-host lets it answer to another"
			}
			if c.refused != "" {
				want = envelope("forbidden", "ForbiddenError", message, `{"header":"`+c.refused+`"}`)
			}
			if c.refused == "" && got.StatusCode != 200 || want != "" && got.body != want {
				t.Errorf("%s, Host %q, %q: %d %s, want %s", method, c.host, c.headers, got.StatusCode, got.body, want)
			}
		}
	}
	r.refused(refusal{"GET", "/v1/sync/limits", "", []string{"Origin: null"}, 403, foreignPage, `{"header":"Origin"}`})
	// What is no secret and changes nothing is for everybody.
	for _, path := range []string{"/", "/livez", "/openapi.yaml"} {
		if got := r.sendTo("evil.example", "GET", path, "", "Origin: http://evil.example"); got.StatusCode != 200 {
			t.Errorf("%s: %d", path, got.StatusCode)
		}
	}
}

// The order of refusals: 404 and 405 before 403, and that before 415 and 400.
func TestOrderOfForbidden(t *testing.T) {
	r := newRig(t)
	const page = "Origin: http://evil.example"
	for _, c := range []struct {
		method, uri, body, header string
		want                      int
	}{
		{"GET", "/x", "", "", 404},
		{"PUT", "/v1/sync", "", "", 405},
		{"POST", "/v1/sync?lastMutationAt=-1", "x", "Content-Type: text/plain", 403},
		{"POST", "/v1/sync", "x", "", 403},
		{"GET", "/v1/sync", "", "", 403},
	} {
		headers := slices.DeleteFunc([]string{page, c.header}, func(h string) bool { return h == "" })
		if got := r.send(c.method, c.uri, c.body, headers...); got.StatusCode != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.uri, got.StatusCode, c.want)
		}
	}
	r.unchanged(-1)
}

// On an interface that others reach each address will do: no page can make a
// browser take an address for another one.
func TestHostsOfOtherInterfaces(t *testing.T) {
	s, _ := newServer(t)
	for _, c := range []struct {
		local, host string
		want        int
	}{
		{"192.168.1.5", "192.168.1.5:8080", 200},
		{"172.17.0.2", "192.168.1.5", 200}, // as in a container
		{"fe80::1", "[fe80::2]:1", 200},
		{"192.168.1.5", "localhost", 200},
		{"192.168.1.5", "evil.example", 403},
		{"127.0.0.1", "192.168.1.5", 403},
		{"::1", "192.168.1.5", 403},
	} {
		r := httptest.NewRequest("GET", "/v1/sync?mutationsSince=0", nil)
		r.Host = c.host
		local := &net.TCPAddr{IP: net.ParseIP(c.local), Port: 8080}
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local)))
		if w.Code != c.want {
			t.Errorf("on %s, Host %s: %d, want %d", c.local, c.host, w.Code, c.want)
		}
	}
}

// Web apps of listed origins can use the server; others are told nothing.
func TestCrossOrigin(t *testing.T) {
	const app = "https://app.example"
	r := newRig(t, func(o *server.Options) { o.Origins = []string{app, "capacitor://localhost"} })
	ask := func(method, origin string, headers ...string) answer {
		return r.send(method, "/v1/sync?mutationsSince=0", "", append(headers, "Origin: "+origin)...)
	}
	for _, origin := range []string{app, "capacitor://localhost"} {
		got := ask("OPTIONS", origin, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,content-type")
		if got.StatusCode != 204 {
			t.Fatalf("a preflight of %s: %d %s", origin, got.StatusCode, got.body)
		}
		for name, want := range map[string]string{
			"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Methods": "GET, POST",
			"Access-Control-Allow-Credentials": "", "Content-Type": "",
		} {
			if got.Header.Get(name) != want {
				t.Errorf("preflight of %s: %s is %q, want %q", origin, name, got.Header.Get(name), want)
			}
		}
		for _, name := range []string{"Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer", "Traceparent", "X-Client-Id", "X-User-Id", "X-Auth-Token"} {
			if !slices.Contains(strings.Split(got.Header.Get("Access-Control-Allow-Headers"), ", "), name) {
				t.Errorf("a page may not send %s", name)
			}
		}
		for _, status := range []int{200, 400, 404, 405} {
			method, uri := "GET", "/v1/sync?mutationsSince=0"
			switch status {
			case 400:
				uri = "/v1/sync"
			case 404:
				uri = "/x"
			case 405:
				method = "DELETE"
			}
			got := r.send(method, uri, "", "Origin: "+origin)
			if got.StatusCode != status || got.Header.Get("Access-Control-Allow-Origin") != origin {
				t.Errorf("%s %s: %d, allowed %q", method, uri, got.StatusCode, got.Header.Get("Access-Control-Allow-Origin"))
			}
			for _, name := range []string{"ETag", "X-Mutation-At", "Retry-After", "X-Request-Id", "Idempotency-Replayed", "RateLimit", "RateLimit-Policy"} {
				if !slices.Contains(strings.Split(got.Header.Get("Access-Control-Expose-Headers"), ", "), name) {
					t.Errorf("a page may not read %s of %s %s", name, method, uri)
				}
			}
		}
	}
	for _, origin := range []string{"null", "https://evil.example", "http://app.example", app + ":444", app + "/", "HTTPS://APP.EXAMPLE", "*", ""} {
		for _, got := range []answer{
			ask("OPTIONS", origin, "Access-Control-Request-Method: POST"),
			ask("GET", origin),
			r.send("GET", "/livez", "", "Origin: "+origin),
		} {
			for name := range got.Header {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("the origin %q gets %s", origin, name)
				}
			}
			if !slices.Contains(got.Header["Vary"], "Origin") {
				t.Errorf("the origin %q: Vary is %q", origin, got.Header["Vary"])
			}
		}
	}
	// A request to change options that is no preflight is a method like any other.
	if got := ask("OPTIONS", app); got.StatusCode != 405 {
		t.Errorf("OPTIONS: %d", got.StatusCode)
	}
	// Where no origin is listed nothing depends on it.
	got := newRig(t).send("GET", "/livez", "", "Origin: "+app)
	if slices.Contains(got.Header["Vary"], "Origin") || got.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("CORS is off: %v", got.Header)
	}
}

func TestParseOrigin(t *testing.T) {
	for origin, want := range map[string]string{
		"https://app.example": "https://app.example", "HTTPS://App.Example": "https://app.example", "http://localhost:3000": "http://localhost:3000",
		"https://app.example:443": "https://app.example", "http://app.example:80": "http://app.example", "http://app.example:443": "http://app.example:443",
		"http://[::1]:3000": "http://[::1]:3000", "capacitor://localhost": "capacitor://localhost",
		"": "", "*": "", "null": "", "app.example": "", "https://app.example/": "", "https://app.example/x": "", "https://*.example": "", "https://": "",
		"https://u@app.example": "", "https://app.example?": "", "https://app.example#": "", "localhost:3000": "",
	} {
		if got, err := server.ParseOrigin(origin); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", origin, got, err, want)
		}
	}
}

// sendTo is send to the server under another name.
func (r *rig) sendTo(host, method, uri, body string, headers ...string) answer {
	r.t.Helper()
	named := *r
	client := *r.http
	client.Transport = asHost{host, r.http.Transport}
	named.http = &client
	return named.send(method, uri, body, headers...)
}

type asHost struct {
	host string
	next http.RoundTripper
}

func (a asHost) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Host = a.host // "" leaves that of the URL
	return a.next.RoundTrip(r)
}

// No route that acts on a log is left out.
func TestEveryRouteKeepsPagesOut(t *testing.T) {
	s, _ := newServer(t)
	r := newRig(t)
	for _, route := range s.Routes() {
		method, path, _ := strings.Cut(route, " ")
		if !strings.HasPrefix(path, "/v1/") {
			continue
		}
		if got := r.sendTo("evil.example", method, path, ""); got.StatusCode != 403 {
			t.Errorf("%s answers to a foreign host with %d", route, got.StatusCode)
		}
		if got := r.send(method, path, "", "Origin: http://evil.example"); got.StatusCode != 403 {
			t.Errorf("%s answers to a foreign page with %d", route, got.StatusCode)
		}
	}
}
