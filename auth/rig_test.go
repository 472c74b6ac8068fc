package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	gojwt "github.com/golang-jwt/jwt/v5"

	"tidemark/store"
	"tidemark/store/storetest"
)

// openStore opens an empty store; the end of the test closes it.
func openStore(t testing.TB) store.Store {
	t.Helper()
	return openAt(t, storetest.URL(t))
}

// openAt opens the store that url names.
func openAt(t testing.TB, url string) store.Store {
	t.Helper()
	s, err := store.Open(url, store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// newTestAuthority returns an authority on a new store, with what it logs.
func newTestAuthority(t testing.TB, issuers ...Issuer) (*Authority, *logText) {
	t.Helper()
	log := &logText{}
	a, err := NewAuthority(context.Background(), openStore(t), issuers, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return a, log
}

// logText is what was logged.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// clock is one that a test moves.
type clock struct{ at atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.at.Store(time.Now().UnixNano())
	return c
}

func (c *clock) now() time.Time       { return time.Unix(0, c.at.Load()) }
func (c *clock) move(d time.Duration) { c.at.Add(int64(d)) }

// refused fails the test unless text is refused as invalid.
func refused(t *testing.T, a *Authority, what, text string) {
	t.Helper()
	if p, err := a.Verify(t.Context(), text); !errors.Is(err, ErrInvalidToken) || p != nil {
		t.Errorf("%s: %+v, %v; want %v", what, p, err, ErrInvalidToken)
	}
}

// accepted fails the test unless text counts, and returns whom it is about.
func accepted(t testing.TB, a *Authority, what, text string) *Principal {
	t.Helper()
	p, err := a.Verify(context.Background(), text)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return p
}

// The keys of the tests: to make one of RSA takes a while.
var (
	rsaKey, otherRSAKey = makeRSA(), makeRSA()
	ecKey               = makeEC()
	edKey               = makeEd()
)

func makeRSA() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}

func makeEC() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func makeEd() ed25519.PrivateKey {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

// jwkSet is the set of the public halves of keys.
func jwkSet(t testing.TB, keys map[string]crypto.Signer) []byte {
	t.Helper()
	set := jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{}}
	for id, k := range keys {
		jwk, err := jwkset.NewJWKFromKey(k.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: id, USE: jwkset.UseSig}})
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, jwk.Marshal())
	}
	text, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// provider is an identity provider: it publishes its keys and can be made to
// fail.
type provider struct {
	*httptest.Server
	asked atomic.Int64 // how often for the keys

	mu     sync.Mutex
	keys   map[string]crypto.Signer
	answer http.HandlerFunc // in place of the keys, or nil
}

func newProvider(t testing.TB) *provider {
	p := &provider{keys: map[string]crypto.Signer{"rsa": rsaKey, "ec": ecKey, "ed": edKey}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys", "response_types_supported": []string{"code"}})
	})
	mux.HandleFunc("GET /keys", func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		p.mu.Lock()
		keys, answer := p.keys, p.answer
		p.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		w.Write(jwkSet(t, keys))
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

// rotate replaces the keys.
func (p *provider) rotate(keys map[string]crypto.Signer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys = keys
}

// fail makes the provider answer with f, or well again with nil.
func (p *provider) fail(f http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = f
}

// issuer is the provider as a server is told of it.
func (p *provider) issuer() Issuer { return Issuer{Issuer: p.URL, Audience: List{"tidemark"}} }

// claimsOf are good claims, with changes: nil removes a claim.
func claimsOf(issuer string, now time.Time, changes map[string]any) map[string]any {
	c := map[string]any{"iss": issuer, "sub": "alice", "aud": "tidemark", "scope": "openid sync", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// sign makes a JWT.
func sign(t testing.TB, method gojwt.SigningMethod, key any, header, claims map[string]any) string {
	t.Helper()
	h := map[string]any{"alg": method.Alg(), "typ": "JWT"}
	maps.Copy(h, header)
	maps.DeleteFunc(h, func(_ string, v any) bool { return v == nil })
	return signText(t, method, key, encode(t, h), encode(t, claims))
}

func encode(t testing.TB, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// signText makes a JWT of texts that need not be JSON.
func signText(t testing.TB, method gojwt.SigningMethod, key any, header, claims string) string {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64([]byte(header)) + "." + b64([]byte(claims))
	signature, err := method.Sign(text, key)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(signature)
}

// eventually waits until done.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
