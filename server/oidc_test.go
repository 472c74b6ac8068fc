package server_test

// An app signs its user in at an identity provider, as OAuth 2.0 has it for apps (RFC 8252: authorization code with PKCE),
// and syncs with the access token that it gets, while the provider rotates its keys and goes down.

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"tidemark/auth"
	"tidemark/client"
	"tidemark/mutlog"
)

// identity is an OpenID Connect provider of one user, alice.
type identity struct {
	*httptest.Server
	now func() time.Time

	mu     sync.Mutex
	codes  map[string]url.Values // the request that each code answers
	keys   []signingKey          // those published; the first one signs
	down   bool
	served int // how often the keys were
}

type signingKey struct {
	id     string
	method jwt.SigningMethod
	key    crypto.Signer
}

func newIdentity(t testing.TB, now func() time.Time) *identity {
	p := &identity{now: now, codes: map[string]url.Values{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.configuration)
	mux.HandleFunc("GET /authorize", p.authorize)
	mux.HandleFunc("POST /token", p.token)
	mux.HandleFunc("GET /keys", p.keySet)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		down := p.down
		p.mu.Unlock()
		if down {
			panic(http.ErrAbortHandler)
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *identity) configuration(w http.ResponseWriter, _ *http.Request) {
	json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token",
		"jwks_uri": p.URL + "/keys", "response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"}, "code_challenge_methods_supported": []string{"S256"}})
}

// authorize is where a browser would ask alice for her password.
func (p *identity) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("client_id") != "app" {
		http.Error(w, "invalid_request", http.StatusBadRequest)
		return
	}
	code := rand.Text()
	p.mu.Lock()
	p.codes[code] = q
	p.mu.Unlock()
	back := url.Values{"code": {code}, "state": {q.Get("state")}}
	http.Redirect(w, r, q.Get("redirect_uri")+"?"+back.Encode(), http.StatusFound)
}

// token gives tokens for a code to who knows the verifier.
func (p *identity) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	asked := p.codes[r.PostFormValue("code")]
	delete(p.codes, r.PostFormValue("code"))
	signer := p.keys[0]
	p.mu.Unlock()
	challenge := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if asked == nil || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(challenge[:]) {
		http.Error(w, `{"error":"invalid_grant"}`, http.StatusBadRequest)
		return
	}
	now := p.now()
	sign := func(typ string, claims jwt.MapClaims) string {
		t := jwt.NewWithClaims(signer.method, claims)
		t.Header["kid"], t.Header["typ"] = signer.id, typ
		text, err := t.SignedString(signer.key)
		if err != nil {
			panic(err)
		}
		return text
	}
	json.NewEncoder(w).Encode(map[string]any{"token_type": "Bearer", "expires_in": 600,
		"access_token": sign("at+jwt", jwt.MapClaims{"iss": p.URL, "sub": "alice", "aud": "tidemark", "client_id": "app", "jti": rand.Text(),
			"scope": asked.Get("scope"), "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()}),
		"id_token": sign("JWT", jwt.MapClaims{"iss": p.URL, "sub": "alice", "aud": "app", "nonce": asked.Get("nonce"),
			"iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()}),
	})
}

func (p *identity) keySet(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served++
	var set jwkset.JWKSMarshal
	for _, k := range p.keys {
		jwk, err := jwkset.NewJWKFromKey(k.key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: k.id, USE: jwkset.UseSig}})
		if err != nil {
			panic(err)
		}
		set.Keys = append(set.Keys, jwk.Marshal())
	}
	json.NewEncoder(w).Encode(set)
}

// change does something to the provider.
func (p *identity) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

// signIn is what the app does: it finds its way from the name of the provider alone.
func signIn(t *testing.T, issuer string) (accessToken, idToken string) {
	t.Helper()
	fetch := func(r *http.Response, err error) (answer map[string]any) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode != 200 || json.Unmarshal(text, &answer) != nil {
			t.Fatalf("%d %s %v", r.StatusCode, text, err)
		}
		return answer
	}
	provider := fetch(http.Get(issuer + "/.well-known/openid-configuration"))
	verifier, state := rand.Text()+rand.Text(), rand.Text()
	challenge := sha256.Sum256([]byte(verifier))
	browser := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	res, err := browser.Get(provider["authorization_endpoint"].(string) + "?" + url.Values{"response_type": {"code"}, "client_id": {"app"},
		"redirect_uri": {"com.example.app:/signed-in"}, "scope": {"openid sync"}, "state": {state}, "nonce": {rand.Text()},
		"code_challenge": {base64.RawURLEncoding.EncodeToString(challenge[:])}, "code_challenge_method": {"S256"}}.Encode())
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	back, err := res.Location()
	if err != nil || back.Scheme != "com.example.app" || back.Query().Get("state") != state {
		t.Fatalf("sent back to %v, %v", back, err)
	}
	tokens := fetch(http.PostForm(provider["token_endpoint"].(string), url.Values{"grant_type": {"authorization_code"}, "client_id": {"app"},
		"redirect_uri": {"com.example.app:/signed-in"}, "code": {back.Query().Get("code")}, "code_verifier": {verifier}}))
	return tokens["access_token"].(string), tokens["id_token"].(string)
}

// TestF40SignIn goes from signing in to syncing, through two rotations of keys and an outage.
func TestF40SignIn(t *testing.T) {
	var later atomic.Int64 // seconds by which the clocks have moved
	now := func() time.Time { return time.Now().Add(time.Duration(later.Load()) * time.Second) }
	newRSA, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	newEC, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, newEd, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	one := signingKey{"one", jwt.SigningMethodRS256, newRSA}
	two := signingKey{"two", jwt.SigningMethodES256, newEC}
	three := signingKey{"three", jwt.SigningMethodEdDSA, newEd}

	p := newIdentity(t, now)
	p.keys = []signingKey{one}
	g := newGuardedBy(t, auth.Issuer{Issuer: p.URL, Audience: auth.List{"tidemark"}})
	g.authority.Now = now
	access := func() string {
		text, _ := signIn(t, p.URL)
		g.secrets = append(g.secrets, text)
		return text
	}
	head := mutlog.Beginning
	syncs := func(what, token string) {
		t.Helper()
		c := g.client("", client.WithToken(token))
		pushed, err := c.Push(context.Background(), client.Push{Base: head, Mutations: []mutlog.Mutation{create(what, `{}`)}})
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		head = pushed.Head
		if changes, _ := mustPull(t, c, client.Query{Since: mutlog.Beginning}); len(changes) == 0 {
			t.Errorf("%s: the log is empty", what)
		}
	}
	refused := func(what, token string, want int) {
		t.Helper()
		var e *client.Error
		if _, err := g.client("", client.WithToken(token)).Head(context.Background()); !errors.As(err, &e) || e.Status != want {
			t.Errorf("%s: %v, want %d", what, err, want)
		}
	}

	first, id := signIn(t, p.URL)
	g.secrets = append(g.secrets, first, id)
	syncs("signed in", first)
	refused("with the ID token, which is for the app", id, 401)

	// The provider announces its next key, uses it, and drops the old one.
	p.change(func() { p.keys = []signingKey{one, two} })
	later.Add(61)
	p.change(func() { p.keys = []signingKey{two, one} })
	second := access()
	syncs("with the next key", second)
	syncs("with the token from before", first)
	p.change(func() { p.keys = []signingKey{three} })
	later.Add(61)
	syncs("with a key that nobody had announced", access())
	refused("with a key that was dropped", second, 401)

	// It is down: who is signed in goes on, and nobody waits for it.
	last := access()
	p.change(func() { p.down = true })
	later.Add(300)
	syncs("with the provider down", last)
	later.Add(400)
	refused("after the token has expired", last, 401)

	// It is back.
	p.change(func() { p.down = false })
	syncs("with the provider back", access())
	p.change(func() {
		if p.served > 4 {
			t.Errorf("the provider was asked for its keys %d times", p.served)
		}
	})
	g.noSecretsLogged()
	if user, err := g.rules.Head(context.Background(), mutlog.User("jwt:"+p.URL+" alice")); err != nil || user != head {
		t.Errorf("the user of the log is another: %d, %v", user, err)
	}
}
