package auth

import (
	"errors"
	"strings"
	"testing"
	"time"

	"tidemark/mutlog"
)

// FuzzVerify: whatever text comes as a credential, it is refused without a panic,
// unless it is one of those that are good.
func FuzzVerify(f *testing.F) {
	a, _ := newTestAuthority(f, fileIssuer(f, testIssuer))
	now := time.Now()
	api, _ := create(f, a, TokenInfo{})
	jwt := sign(f, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, now, nil))
	f.Add(api)
	f.Add(jwt)
	f.Add(jwt + ".x")
	f.Add("e30.e30.e30")
	f.Add("tm_")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := a.Verify(t.Context(), text)
		if (err == nil) != (text == api || text == jwt) || err != nil && (p != nil || !errors.Is(err, ErrInvalidToken)) {
			t.Fatalf("%q: %+v, %v", text, p, err)
		}
	})
}

// FuzzParseJWT: what parses has three parts, and claims that parse the same way
// when the parts are put together again.
func FuzzParseJWT(f *testing.F) {
	f.Add(`{"alg":"RS256","kid":"k","typ":"JWT"}`, `{"iss":"i","sub":"s","aud":["a"],"exp":1,"iat":0.5,"scope":"a  b"}`)
	f.Add(`{"alg":"none","crit":["b64"],"b64":false}`, `{"aud":"a","scp":["x"],"exp":"1"}`)
	f.Add(`{"alg":"x","alg":"y"}`, `{"cnf":null,"events":{}}`)
	f.Fuzz(func(t *testing.T, header, claims string) {
		text := signText(t, methods["EdDSA"], edKey, header, claims)
		token, err := parseJWT(text)
		if err != nil {
			return
		}
		if strings.Count(text, ".") != 2 || !strings.HasPrefix(text, token.signed+".") {
			t.Fatalf("%q has the signed part %q", text, token.signed)
		}
		issuer := Issuer{Issuer: token.claims.Issuer, Audience: List(token.claims.Audience), MaxLifetime: Duration(defaultLifetime)}
		if token.claims.check(&issuer, time.Unix(1, 0)) == nil && (token.claims.Subject == nil || !mutlog.User(userOf(issuer.Issuer, *token.claims.Subject)).Valid() && issuer.check() == nil) {
			t.Fatalf("%s makes no user", claims)
		}
		_ = token.checkKind(&issuer)
	})
}
