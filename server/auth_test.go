package server_test

// Who gets in, with what, and to where: every route × every credential × every scope; and that no user can tell anything
// of another, whatever of theirs is asked with.

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"tidemark/auth"
	"tidemark/client"
	"tidemark/mutlog"
	"tidemark/server"
)

const (
	testIssuer = "https://id.example.com"
	testSecret = "a secret of the identity provider, of 32 bytes and more"
)

// guarded is a rig that asks for tokens.
type guarded struct {
	*rig
	authority *auth.Authority
	later     atomic.Int64 // ms by which the clock has moved
	secrets   []string     // of every token that was made
}

// newGuarded starts a server that trusts API tokens and, if jwts is set, the JWTs of testIssuer.
func newGuarded(t testing.TB, jwts bool) *guarded {
	t.Helper()
	var issuers []auth.Issuer
	if jwts {
		path := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(path, []byte(testSecret), 0o600); err != nil {
			t.Fatal(err)
		}
		issuers = []auth.Issuer{{Issuer: testIssuer, Audience: auth.List{"tidemark"}, SecretFile: path}}
	}
	return newGuardedBy(t, issuers...)
}

// newGuardedBy starts a server that trusts API tokens and the JWTs of issuers.
func newGuardedBy(t testing.TB, issuers ...auth.Issuer) *guarded {
	t.Helper()
	return newGuardedWith(t, issuers)
}

// newGuardedWith is newGuardedBy; change may alter the server's options.
func newGuardedWith(t testing.TB, issuers []auth.Issuer, change ...func(*server.Options)) *guarded {
	t.Helper()
	var authenticate atomic.Pointer[func(*http.Request) (*auth.Principal, error)]
	g := &guarded{}
	g.rig = newRig(t, append(change, func(o *server.Options) {
		o.Log.Now = func() time.Time { return time.UnixMilli(int64(start) + g.later.Load()) }
		o.Authenticate = func(r *http.Request) (*auth.Principal, error) { return (*authenticate.Load())(r) }
		o.Tickets = g
	})...)
	var err error
	if g.authority, err = auth.NewAuthority(context.Background(), g.store, issuers, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	f := server.Authenticator(g.authority)
	authenticate.Store(&f)
	return g
}

// NewTicket and Redeem are those of the authority, which is there only once the
// rig is.
func (g *guarded) NewTicket(ctx context.Context, who *auth.Principal) (string, error) {
	text, err := g.authority.NewTicket(ctx, who)
	g.secrets = append(g.secrets, text)
	return text, err
}

func (g *guarded) Redeem(ctx context.Context, text string) (*auth.Principal, error) {
	return g.authority.Redeem(ctx, text)
}

// token makes an API token of user.
func (g *guarded) token(user mutlog.User, scopes ...string) (text, id string) {
	g.t.Helper()
	text, made, err := g.authority.Create(context.Background(), auth.TokenInfo{User: user, Scopes: scopes})
	if err != nil {
		g.t.Fatal(err)
	}
	g.secrets = append(g.secrets, text)
	return text, made.ID
}

// jwt makes a JWT of testIssuer for subject.
func (g *guarded) jwt(subject, scope string, lasts time.Duration) string {
	g.t.Helper()
	now := time.Now()
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": testIssuer, "aud": "tidemark", "sub": subject, "scope": scope,
		"iat": now.Add(-time.Hour).Unix(), "exp": now.Add(lasts).Unix()}).SignedString([]byte(testSecret))
	if err != nil {
		g.t.Fatal(err)
	}
	g.secrets = append(g.secrets, text)
	return text
}

// policies is what each route asks for: a scope, or public. A route that is not here may not exist.
var policies = map[string]string{
	"GET /v1/sync":        auth.ScopeRead,
	"POST /v1/sync":       auth.ScopeSync,
	"GET /v1/sync/limits": auth.ScopeRead,
	"GET /v1/sync/events": auth.ScopeRead,

	"POST /v1/sync/events/ticket": auth.ScopeRead,

	"GET /": public, "HEAD /": public,
	"GET /openapi.yaml": public, "HEAD /openapi.yaml": public,
	"GET /livez": public, "HEAD /livez": public,
	"GET /readyz": public, "HEAD /readyz": public,
}

const public = "public"

// good requests of the routes that are not public.
var requestOf = map[string]struct{ query, body string }{
	"GET /v1/sync":        {"mutationsSince=0", ""},
	"POST /v1/sync":       {"lastMutationAt=-1", good},
	"GET /v1/sync/limits": {"", ""},
	"GET /v1/sync/events": {"", ""},

	"POST /v1/sync/events/ticket": {"", ""},
}

// TestRoutePolicies asks every route with every kind of credential, in each of the places that it can be in.
func TestRoutePolicies(t *testing.T) {
	g := newGuarded(t, true)
	full, _ := g.token("alice", auth.ScopeSync, "notes")
	read, _ := g.token("alice", auth.ScopeRead)
	revoked, id := g.token("alice", auth.ScopeSync)
	if err := g.authority.Revoke(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	const no, reads, writes = 0, 1, 2
	credentials := []struct {
		name, text string
		may        int
	}{
		{"no token", "", no},
		{"garbage", "garbage", no},
		{"an API token that was never made", "tm_01KFTAMTQV8R3BDHE1Y5KZJ2NG_" + strings.Repeat("A", 43), no},
		{"an API token with another secret", full[:len(full)-1] + flip(full[len(full)-1]), no},
		{"a revoked API token", revoked, no},
		{"an API token for everything", full, writes},
		{"an API token for reading", read, reads},
		{"a JWT for everything", g.jwt("alice", "openid sync", time.Hour), writes},
		{"a JWT for reading", g.jwt("alice", "sync:read", time.Hour), reads},
		{"a JWT without a scope", g.jwt("alice", "openid", time.Hour), -1},
		{"an expired JWT", g.jwt("alice", "sync", -time.Minute), no},
		{"a JWT with a changed signature", g.jwt("alice", "sync", time.Hour) + "x", no},
	}
	routes := server.New(server.Options{Logger: slog.New(slog.DiscardHandler)}).Routes()
	for _, route := range routes {
		policy, known := policies[route]
		if !known {
			t.Errorf("%s: who may ask it? It has no policy", route)
			continue
		}
		method, path, _ := strings.Cut(route, " ")
		request, ok := requestOf[route]
		if policy != public && !ok {
			t.Errorf("%s: there is no good request to try it with", route)
		}
		for _, c := range credentials {
			for n, place := range []string{"Authorization: Bearer ", "authorization: bearer  ", "x-auth-token: "} {
				if policy == public && n > 0 { // nobody looks at the token
					break
				}
				var headers []string
				if c.text != "" {
					headers = []string{place + c.text}
				}
				headers = append(headers, "X-User-Id: mallory") // chooses nothing
				uri := path + "?" + request.query
				if policy == auth.ScopeSync { // each push on a log of its own would need a user of its own
					headers = append(headers, fmt.Sprintf("x-client-id: %s %d", c.name, n))
				}
				send := g.send
				if path == "/v1/sync/events" {
					send = g.begin
				}
				got := send(method, uri, request.body, headers...)
				want := verdict(policy, c.may)
				if ok := got.StatusCode < 400 || got.StatusCode == 409; want == 200 && !ok || want != 200 && got.StatusCode != want {
					t.Errorf("%s with %s (%s): %d %s, want %d", route, c.name, place, got.StatusCode, got.body, want)
				}
				challenge := got.Header.Get("WWW-Authenticate")
				switch {
				case want == 200 && challenge != "",
					want == 401 && (c.text == "" && challenge != "Bearer" || c.text != "" && challenge != `Bearer error="invalid_token"`),
					want == 403 && challenge != `Bearer error="insufficient_scope", scope="`+policy+`"`:
					t.Errorf("%s with %s: WWW-Authenticate: %s", route, c.name, challenge)
				}
			}
		}
	}
	for route := range policies {
		if !slices.Contains(routes, route) {
			t.Errorf("%s has a policy, and is gone", route)
		}
	}
	if head, err := g.rules.Head(context.Background(), "mallory"); err != nil || head != mutlog.Beginning {
		t.Errorf("X-User-Id has chosen the user: head %d, %v", head, err)
	}
	g.noSecretsLogged()
}

// verdict is the status of a good request with a credential.
func verdict(policy string, may int) int {
	switch {
	case policy == public:
		return 200
	case may == 0:
		return 401
	case may == 2, may == 1 && policy == auth.ScopeRead:
		return 200
	}
	return 403
}

// flip returns another character than c.
func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

// noSecretsLogged fails the test if the log holds a token, or the secret of one.
func (g *guarded) noSecretsLogged() {
	g.t.Helper()
	g.log.mu.Lock()
	defer g.log.mu.Unlock()
	log := g.log.buf.String()
	if !strings.Contains(log, `"msg":"request"`) {
		g.t.Error("there is no log, which proves nothing")
	}
	for _, s := range g.secrets {
		if strings.Contains(log, s) || strings.Contains(log, s[len(s)-40:]) {
			g.t.Errorf("the log holds the secret of %s", s)
		}
	}
}

// Whatever is wrong with a token, and wherever it comes from, the answer is the same to the byte.
func TestRefusalsOfCredentials(t *testing.T) {
	g := newGuarded(t, true)
	text, _ := g.token("alice", auth.ScopeSync)
	const (
		message = "A valid token is required: Authorization: Bearer, or x-auth-token"
		twice   = "The headers Authorization and x-auth-token must not be repeated, nor be there both"
	)
	bearer, token := "Authorization: Bearer "+text, "x-auth-token: "+text
	basic := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("alice:"+text))
	for _, method := range []string{"GET", "POST"} {
		uri := "/v1/sync?mutationsSince=0&lastMutationAt=-1"
		for _, headers := range [][]string{nil, {basic}, {"Authorization: " + text}, {"Authorization: Bearer"}, {"Authorization: Bearer "}, {"Authorization:"},
			{"x-auth-token:"}, {"x-auth-token: Bearer " + text}, {"Authorization: Token " + text}, {bearer + ","}, {bearer + " " + text}, {"Cookie: token=" + text},
			{"X-User-Id: alice"}, {"Authorization: Bearer " + strings.Repeat("a", 9000)}, {"Authorization: Bearer " + strings.Repeat(".", 9000)},
			{"Authorization: Bearer a.b.c"}, {"Authorization: Bearer \xff"}, {"Proxy-Authorization: Bearer " + text}} {
			g.refused(refusal{method, uri, good, headers, 401, message, ""})
		}
		for _, query := range []string{"&access_token=", "&token=", "&x-auth-token=", "&authorization=Bearer%20"} {
			g.refused(refusal{method, uri + query + text, good, nil, 401, message, ""})
		}
		for _, headers := range [][]string{{bearer, bearer}, {token, token}, {bearer, token}, {bearer, "x-auth-token:"}, {bearer, basic}} {
			g.refused(refusal{method, uri, good, headers, 400, twice, `{"header":"Authorization"}`})
		}
		// The refusals before it come first, and tell nothing of whether the token is valid.
		g.refused(refusal{method, "/v1/sync/", good, []string{bearer}, 404, "There is nothing at this path", ""})
		g.refused(refusal{method, "/v1/sync?mutationsSince=x&lastMutationAt=x", "{", []string{"Content-Type: text/plain"}, 401, message, ""})
	}
	for _, headers := range [][]string{{bearer}, {token}, {"authorization: BEARER " + text}, {"AUTHORIZATION: bearer    " + text}} {
		if got := g.get("mutationsSince=0", headers...); got.StatusCode != 200 {
			t.Errorf("%.30s: %d %s", headers, got.StatusCode, got.body)
		}
	}
	read, _ := g.token("alice", auth.ScopeRead)
	g.refused(refusal{"POST", "/v1/sync?lastMutationAt=x", "{", []string{"x-auth-token: " + read}, 403, "The token lacks the scope sync", `{"scope":"sync"}`})
	if head, err := g.rules.Head(context.Background(), "alice"); err != nil || head != mutlog.Beginning {
		t.Errorf("a refusal has changed the log: %d, %v", head, err)
	}
	g.noSecretsLogged()
}

// A header that goes on in the next line is one header: a token in the line behind another's is none, and one that is
// told in two lines is the same as in one.
func TestFoldedHeaders(t *testing.T) {
	g := newGuarded(t, false)
	text, _ := g.token("alice", auth.ScopeSync)
	for headers, want := range map[string]string{
		"X-A: a\r\n Authorization: Bearer " + text:   "HTTP/1.1 401 ",
		"X-A: a\r\n\tx-auth-token: " + text:          "HTTP/1.1 401 ",
		"Authorization: Bearer\r\n " + text:          "HTTP/1.1 200 ",
		"Authorization: Basic\r\n Bearer " + text:    "HTTP/1.1 401 ",
		"Authorization: Bearer " + text + "\r\n xyz": "HTTP/1.1 401 ",
	} {
		c, err := net.Dial("tcp", g.addr)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "GET /v1/sync?mutationsSince=0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n%s\r\n\r\n", headers)
		got, err := io.ReadAll(c)
		c.Close()
		if err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("%q: %q, %v, want %s", headers, got, err, want)
		}
	}
	g.noSecretsLogged()
}

// The first token closes a server that is running at once, for good; a revoked one is refused with the next request, and
// what it is still being answered is told.
func TestClosingAndRevoking(t *testing.T) {
	g := newGuarded(t, false)
	open := g.client("bob")
	head := mustPush(t, open, mutlog.Beginning, create("a", `{}`))
	text, id := g.token("alice", auth.ScopeSync)
	var refused *client.Error
	if _, err := open.Head(context.Background()); !errors.As(err, &refused) || refused.Status != 401 {
		t.Errorf("without a token: %v", err)
	}
	alice := g.client("bob", client.WithToken(text)) // X-User-Id chooses nothing
	if got, err := alice.Head(context.Background()); err != nil || got != mutlog.Beginning {
		t.Errorf("alice has bob's log: %d, %v", got, err)
	}
	mustPush(t, alice, mutlog.Beginning, create("a", `{}`))
	p, err := g.authority.Verify(context.Background(), text)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.authority.Revoke(context.Background(), id); err != nil {
		t.Fatal(err)
	}
	for _, c := range []*client.Client{alice, open} {
		if _, err := c.Head(context.Background()); !errors.As(err, &refused) || refused.Status != 401 {
			t.Errorf("after the last token was revoked: %v", err)
		}
	}
	select {
	case <-p.Done:
	default:
		t.Error("what is being answered is not told")
	}
	if got, err := g.rules.Head(context.Background(), "bob"); err != nil || got != head {
		t.Errorf("bob's log: %d, %v", got, err)
	}
}

// TestF40WithoutKeys: where the keys of a provider are not known, a JWT is answered with 503, an API token as ever.
func TestF40WithoutKeys(t *testing.T) {
	r := newGuardedBy(t, auth.Issuer{Issuer: "http://127.0.0.1:1", Audience: auth.List{"tidemark"}})
	token := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"iss": "http://127.0.0.1:1", "aud": "tidemark", "sub": "a", "exp": time.Now().Unix() + 60})
	token.Header["kid"], token.Header["alg"] = "k", "RS256"
	head, err := token.SigningString()
	if err != nil {
		t.Fatal(err)
	}
	for _, uri := range []string{"/v1/sync?mutationsSince=0", "/v1/sync/limits"} {
		got := r.send("GET", uri, "", "x-auth-token: "+head+".AAAA")
		if got.StatusCode != 503 || got.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %s", uri, got.StatusCode, got.body)
		}
	}
	text, _ := r.token("alice", auth.ScopeSync)
	if got := r.get("mutationsSince=0", "x-auth-token: "+text); got.StatusCode != 200 {
		t.Errorf("an API token: %d %s", got.StatusCode, got.body)
	}
}

// An error of the store that keeps the tokens is no refusal of the token.
func TestTokensUnreadable(t *testing.T) {
	var failure error
	r := newRig(t, func(o *server.Options) {
		o.Authenticate = func(r *http.Request) (*auth.Principal, error) { return nil, failure }
	})
	for want, err := range map[int]error{503: mutlog.ErrUnavailable, 500: mutlog.ErrCorrupt} {
		failure = err
		for _, uri := range []string{"/v1/sync?mutationsSince=0", "/v1/sync/limits"} {
			for _, accept := range []string{"application/json", "application/problem+json"} {
				if got := r.send("GET", uri, "", "Accept: "+accept); got.StatusCode != want {
					t.Errorf("%s: %d, want %d", uri, got.StatusCode, want)
				}
			}
		}
	}
}

// TestUsersOfEachOther is the matrix of what one user could ask with of another: every route, with every name and number
// that the other has. The answer is the same as with one that nobody has.
func TestUsersOfEachOther(t *testing.T) {
	g := newGuarded(t, true)
	bob, bobID := g.token("bob", auth.ScopeSync)
	const push = `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"%s","data":{"of":"bob"}},{"type":"CREATE","resource":"%s","data":{"of":"bob"}}]}`
	const resource = "BOBS_RESOURCE"
	pushed := g.post("lastMutationAt=-1", fmt.Sprintf(push, "bobs-note", resource), "x-auth-token: "+bob, "Idempotency-Key: bobs-key", "x-client-id: bobs-phone")
	if pushed.StatusCode != 200 {
		t.Fatal(pushed.body)
	}
	assigned := regexp.MustCompile(`"resourceId":"([0-9A-Z]{26})"`).FindStringSubmatch(pushed.body)[1]
	head := pushed.Header.Get("X-Mutation-At")
	first := fmt.Sprint(int64(start)) // the timestamp of the first of the two
	g.later.Store(1000)

	// What bob has, and what nobody has, of the same form.
	pairs := [][2]string{{"bobs-note", "nobodys-n"}, {assigned, "01KFTAMTQV8R3BDHE1Y5KZJ2NG"}, {"bobs-key", "noones-k"}, {"bobs-phone", "no-ones-ph"},
		{head, fmt.Sprint(int64(start) + 7)}, {first, fmt.Sprint(int64(start) + 8)}, {resource, "NOONES_RESOUR"}, {"bob", "zoe"}, {bobID, "01KFTAMTQV8R3BDHE1Y5KZJ2NG"}}
	type probe struct{ route, query, body, header string }
	probes := []probe{
		{"GET /v1/sync", "mutationsSince=ID", "", ""},
		{"GET /v1/sync", "mutationsSince=0&after=ID", "", ""},
		{"GET /v1/sync", "mutationsSince=0&limit=10&after=ID", "", ""},
		{"GET /v1/sync", "mutationsSince=-1&resources=ID", "", ""},
		{"GET /v1/sync", "mutationsSince=ID&history=true", "", ""},
		{"GET /v1/sync", "mutationsSince=0&userId=ID&user=ID", "", "X-User-Id: ID"},
		{"GET /v1/sync", "mutationsSince=0", "", `If-None-Match: W/"ID"`},
		{"GET /v1/sync", "mutationsSince=0&metadataOnly=true", "", "x-client-id: ID"},
		{"GET /v1/sync/limits", "user=ID", "", "X-User-Id: ID"},
		{"GET /v1/sync/events", "user=ID", "", "X-User-Id: ID"},
		{"POST /v1/sync/events/ticket", "user=ID", "", "X-User-Id: ID"},
		{"GET /v1/sync/events", "lastEventId=ID", "", "Last-Event-ID: ID"},
		{"POST /v1/sync", "lastMutationAt=ID", `{"mutations":[{"type":"UPDATE","resource":"NOTE","resourceId":"ID","data":{"a":1}}]}`, ""},
		{"POST /v1/sync", "lastMutationAt=ID&merge=true", `{"mutations":[]}`, ""},
		{"POST /v1/sync", "lastMutationAt=-1", `{"mutations":[{"type":"UPDATE","resource":"NOTE","resourceId":"ID","data":{"a":1}}]}`, ""},
		{"POST /v1/sync", "lastMutationAt=-1", `{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"ID"}]}`, ""},
		{"POST /v1/sync", "lastMutationAt=-1", `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"ID","data":{"a":1}}]}`, "x-client-id: ID"},
		{"POST /v1/sync", "lastMutationAt=-1", `{"mutations":[]}`, "Idempotency-Key: ID"},
		{"POST /v1/sync", "lastMutationAt=-1", `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"id":"ID","userId":"ID"}}]}`, "Idempotency-Key: ID"},
		{"POST /v1/sync", "lastMutationAt=-1", `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{},"userId":"ID"}]}`, "X-User-Id: ID"},
	}
	for route, policy := range policies {
		if policy != public && !slices.ContainsFunc(probes, func(p probe) bool { return p.route == route }) {
			t.Errorf("%s: nobody has tried to reach another user through it", route)
		}
	}
	n := 0
	asked := func(p probe, id string) string {
		n++
		text, _ := g.token(mutlog.User(fmt.Sprintf("alice-%d", n)), auth.ScopeSync) // with an empty log each time
		fill := strings.NewReplacer("ID", id)
		headers := []string{"x-auth-token: " + text, "X-Request-Id: same"}
		if p.header != "" {
			name, value, _ := strings.Cut(p.header, ": ")
			headers = append(headers, name+": "+fill.Replace(value))
		}
		method, path, _ := strings.Cut(p.route, " ")
		send := g.send
		if path == "/v1/sync/events" {
			send = g.begin
		}
		got := send(method, path+"?"+fill.Replace(p.query), fill.Replace(p.body), headers...)
		var h strings.Builder
		got.Header.Del("Date")
		if err := got.Header.Write(&h); err != nil {
			t.Fatal(err)
		}
		body := regexp.MustCompile("tmt_[-_A-Za-z0-9]{43}").ReplaceAllString(got.body, "TICKET")
		return strings.ReplaceAll(fmt.Sprintf("%d\n%s\n%s", got.StatusCode, h.String(), body), id, "ID")
	}
	for _, p := range probes {
		for _, pair := range pairs {
			his, nobodys := asked(p, pair[0]), asked(p, pair[1])
			if his != nobodys {
				t.Errorf("%s ?%s %s %s with %s of bob's is answered\n%s\nand with %s of nobody's\n%s", p.route, p.query, p.body, p.header, pair[0], his, pair[1], nobodys)
			}
			if strings.Contains(his, `"of":"bob"`) {
				t.Errorf("%s ?%s with %s: alice sees what is bob's: %s", p.route, p.query, pair[0], his)
			}
		}
	}
	if got := g.get("mutationsSince=-1&history=true", "x-auth-token: "+bob); got.Header.Get("X-Mutation-At") != head || strings.Count(got.body, `"of":"bob"`) != 2 {
		t.Errorf("bob's log has changed: %s", got.body)
	}

	// An API token of the name of a JWT's user cannot be made, and JWTs of the name of a token's user are others.
	same := g.get("mutationsSince=-1", "x-auth-token: "+g.jwt("bob", "sync", time.Hour))
	if same.StatusCode != 200 || strings.Contains(same.body, "bobs-note") {
		t.Errorf("the subject bob of an issuer: %d %s", same.StatusCode, same.body)
	}
}
