package auth

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	gojwt "github.com/golang-jwt/jwt/v5"

	"tidemark/mutlog"
)

var methods = map[string]gojwt.SigningMethod{"RS256": gojwt.SigningMethodRS256, "ES256": gojwt.SigningMethodES256,
	"EdDSA": gojwt.SigningMethodEdDSA, "HS256": gojwt.SigningMethodHS256, "PS256": gojwt.SigningMethodPS256, "none": gojwt.SigningMethodNone}

// keysFile writes a key set and returns its path.
func keysFile(t testing.TB, keys map[string]crypto.Signer) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, jwkSet(t, keys), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// fileIssuer is an issuer whose keys are in a file.
func fileIssuer(t testing.TB, name string) Issuer {
	return Issuer{Issuer: name, Audience: List{"tidemark", "other name"},
		Keys: keysFile(t, map[string]crypto.Signer{"rsa": rsaKey, "ec": ecKey, "ed": edKey})}
}

const testIssuer = "https://id.example.com"

// The tokens that count, of each algorithm.
func TestGoodJWTs(t *testing.T) {
	a, _ := newTestAuthority(t, fileIssuer(t, testIssuer))
	now := time.Now()
	for name, text := range map[string]string{
		"RS256": sign(t, methods["RS256"], rsaKey, map[string]any{"kid": "rsa"}, claimsOf(testIssuer, now, nil)),
		"ES256": sign(t, methods["ES256"], ecKey, map[string]any{"kid": "ec"}, claimsOf(testIssuer, now, nil)),
		"EdDSA": sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed", "typ": "at+jwt"}, claimsOf(testIssuer, now, nil)),
		"no typ, x5t, other claims, scopes in a list": sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed", "typ": nil, "x5t": "abc"},
			claimsOf(testIssuer, now, map[string]any{"scope": nil, "scp": []string{"sync", "openid"}, "aud": []string{"a", "other name"}, "azp": "app", "email": "a@b", "typ": "Bearer"})),
		"fractions": sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, now, map[string]any{
			"exp": float64(now.UnixMilli())/1000 + 60.5, "iat": float64(now.UnixMilli()) / 1000, "nbf": float64(now.UnixMilli()) / 1000})),
		"29 s after its end": sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, now, map[string]any{"exp": now.Unix() - 29, "iat": now.Unix() - 60})),
		"29 s too early":     sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, now, map[string]any{"nbf": now.Unix() + 29, "iat": now.Unix() + 29})),
		"without iat":        sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, now, map[string]any{"iat": nil})),
		"5 KB of claims":     sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, now, map[string]any{"x": strings.Repeat("a", 5000)})),
		"of 24 h":            sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, now, map[string]any{"exp": now.Add(24 * time.Hour).Unix()})),
	} {
		p := accepted(t, a, name, text)
		if p.User != "jwt:https://id.example.com alice" || p.Method != JWT || !p.Has(ScopeSync) || !p.Has("openid") || p.Has("other") {
			t.Errorf("%s: it is about %+v", name, p)
		}
		if again := accepted(t, a, name, text); again != p {
			t.Errorf("%s: the second time it was verified anew", name)
		}
	}
	for _, scope := range []string{"a\u00a0sync", "a\tsync", "sync\n", "sync,a", "SYNC"} {
		text := sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, now, map[string]any{"scope": scope, "scp": []string{"a sync"}}))
		if p := accepted(t, a, scope, text); p.Has(ScopeRead) {
			t.Errorf("the scope %q lets read", scope)
		}
	}
	if p := accepted(t, a, "no scopes", sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, now, map[string]any{"scope": nil}))); p.Has(ScopeRead) {
		t.Error("a token without scopes may read")
	}
}

// forged is every way to make a JWT that must not count: what is wrong with its
// form, its signature, its claims and its key. Each is a good token with one
// thing wrong.
func forged(t *testing.T, now time.Time) map[string]string {
	kid := map[string]any{"kid": "rsa"}
	with := func(header map[string]any) map[string]any {
		h := map[string]any{"kid": "rsa"}
		for k, v := range header {
			h[k] = v
		}
		return h
	}
	claims := func(changes map[string]any) map[string]any { return claimsOf(testIssuer, now, changes) }
	rs := func(header, claims map[string]any) string { return sign(t, methods["RS256"], rsaKey, header, claims) }
	good := rs(kid, claims(nil))
	parts := strings.Split(good, ".")
	der, err := x509.MarshalPKIXPublicKey(rsaKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	unsigned := sign(t, methods["none"], gojwt.UnsafeAllowNoneSignatureType, kid, claims(nil))
	renamed := func(alg string) string {
		return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"alg":%q,"kid":"rsa"}`, alg)) + "." + parts[1] + "." + parts[2]
	}
	list := map[string]string{
		// 145 to 160
		"alg none":                      unsigned,
		"alg none with a signature":     unsigned + parts[2],
		"alg nOnE":                      renamed("nOnE"),
		"alg empty":                     renamed(""),
		"HS256 with the public key":     sign(t, methods["HS256"], public, kid, claims(nil)),
		"HS256 with the public DER":     sign(t, methods["HS256"], der, kid, claims(nil)),
		"PS256":                         sign(t, methods["PS256"], rsaKey, kid, claims(nil)),
		"RS384":                         sign(t, gojwt.SigningMethodRS384, rsaKey, kid, claims(nil)),
		"RS256 that says ES256":         signText(t, methods["RS256"], rsaKey, `{"alg":"ES256","kid":"rsa"}`, encode(t, claims(nil))),
		"RS256 that says none":          signText(t, methods["RS256"], rsaKey, `{"alg":"none","kid":"rsa"}`, encode(t, claims(nil))),
		"RS256 that says nothing":       signText(t, methods["RS256"], rsaKey, `{"kid":"rsa"}`, encode(t, claims(nil))),
		"another key":                   sign(t, methods["RS256"], otherRSAKey, kid, claims(nil)),
		"a key of another kind":         sign(t, methods["ES256"], ecKey, kid, claims(nil)),
		"another's kid":                 rs(map[string]any{"kid": "ec"}, claims(nil)),
		"a bad signature":               good[:len(good)-8] + "AAAAAAAA",
		"no signature":                  parts[0] + "." + parts[1] + ".",
		"two parts":                     parts[0] + "." + parts[1],
		"five parts":                    good + ".a.b",
		"a million dots":                strings.Repeat(".", 1e6),
		"8,000 dots":                    strings.Repeat(".", 8000),
		"padding":                       parts[0] + "=." + parts[1] + "." + parts[2],
		"padding behind":                good + "=",
		"a line feed":                   good[:20] + "\n" + good[20:],
		"a line feed in the signature":  good + "\n",
		"expired 31 s ago":              rs(kid, claims(map[string]any{"exp": now.Unix() - 31, "iat": now.Unix() - 60})),
		"no exp":                        rs(kid, claims(map[string]any{"exp": nil})),
		"exp null":                      signText(t, methods["RS256"], rsaKey, `{"alg":"RS256","kid":"rsa"}`, strings.Replace(encode(t, claims(nil)), `"exp":`, `"exp":null,"x":`, 1)),
		"exp as text":                   rs(kid, claims(map[string]any{"exp": fmt.Sprint(now.Unix() + 60)})),
		"exp out of range":              rs(kid, claims(map[string]any{"exp": 1e300, "iat": 1e300})),
		"exp below 0":                   rs(kid, claims(map[string]any{"exp": -1})),
		"nbf in the future":             rs(kid, claims(map[string]any{"nbf": now.Unix() + 40})),
		"for another audience":          rs(kid, claims(map[string]any{"aud": "another"})),
		"for an audience that is alike": rs(kid, claims(map[string]any{"aud": "Tidemark"})),
		"for none":                      rs(kid, claims(map[string]any{"aud": nil})),
		"for an empty list":             rs(kid, claims(map[string]any{"aud": []string{}})),
		"for a number":                  rs(kid, claims(map[string]any{"aud": 7})),
		"of another issuer":             rs(kid, claims(map[string]any{"iss": "https://evil.example.com"})),
		"of an issuer that is alike":    rs(kid, claims(map[string]any{"iss": testIssuer + "/"})),
		"of no issuer":                  rs(kid, claims(map[string]any{"iss": nil})),
		"of issuers in a list":          rs(kid, claims(map[string]any{"iss": []string{testIssuer}})),

		// 161 to 170
		"no sub":                  rs(kid, claims(map[string]any{"sub": nil})),
		"an empty sub":            rs(kid, claims(map[string]any{"sub": ""})),
		"a sub that is a number":  rs(kid, claims(map[string]any{"sub": 7})),
		"a sub of 256 bytes":      rs(kid, claims(map[string]any{"sub": strings.Repeat("a", 256)})),
		"a sub of 6 KB":           rs(kid, claims(map[string]any{"sub": strings.Repeat("a", 6000)})),
		"a sub of 10 KB":          rs(kid, claims(map[string]any{"sub": strings.Repeat("a", 10000)})),
		"a sub with /":            rs(kid, claims(map[string]any{"sub": "../alice"})),
		"a sub with NUL":          rs(kid, claims(map[string]any{"sub": "alice\x00"})),
		"a sub with a line feed":  rs(kid, claims(map[string]any{"sub": "alice\n"})),
		"an unknown crit":         rs(with(map[string]any{"crit": []string{"x"}, "x": 1}), claims(nil)),
		"an empty crit":           rs(with(map[string]any{"crit": []string{}}), claims(nil)),
		"b64 false":               rs(with(map[string]any{"b64": false, "crit": []string{"b64"}}), claims(nil)),
		"b64 false without crit":  rs(with(map[string]any{"b64": false}), claims(nil)),
		"zip":                     rs(with(map[string]any{"zip": "DEF"}), claims(nil)),
		"a jku":                   rs(with(map[string]any{"jku": "https://evil.example.com/keys"}), claims(nil)),
		"a jwk":                   rs(with(map[string]any{"jwk": map[string]any{"kty": "oct", "k": "AAAA"}}), claims(nil)),
		"an x5u":                  rs(with(map[string]any{"x5u": "https://evil.example.com/cert"}), claims(nil)),
		"an x5c":                  rs(with(map[string]any{"x5c": []string{"AAAA"}}), claims(nil)),
		"iat in an hour":          rs(kid, claims(map[string]any{"iat": now.Unix() + 3600, "exp": now.Unix() + 7200})),
		"iat in 40 s":             rs(kid, claims(map[string]any{"iat": now.Unix() + 40})),
		"valid for 25 h":          rs(kid, claims(map[string]any{"exp": now.Unix() + 25*3600})),
		"valid for 25 h, no iat":  rs(kid, claims(map[string]any{"exp": now.Unix() + 25*3600, "iat": nil})),
		"two subs":                signText(t, methods["RS256"], rsaKey, `{"alg":"RS256","kid":"rsa"}`, strings.Replace(encode(t, claims(nil)), "{", `{"sub":"bob",`, 1)),
		"two algs":                signText(t, methods["RS256"], rsaKey, `{"alg":"none","alg":"RS256","kid":"rsa"}`, encode(t, claims(nil))),
		"two members inside":      signText(t, methods["RS256"], rsaKey, `{"alg":"RS256","kid":"rsa"}`, strings.Replace(encode(t, claims(nil)), "{", `{"x":{"a":1,"a":2},`, 1)),
		"more behind the claims":  signText(t, methods["RS256"], rsaKey, `{"alg":"RS256","kid":"rsa"}`, encode(t, claims(nil))+"{}"),
		"claims that are a list":  signText(t, methods["RS256"], rsaKey, `{"alg":"RS256","kid":"rsa"}`, "["+encode(t, claims(nil))+"]"),
		"claims that are null":    signText(t, methods["RS256"], rsaKey, `{"alg":"RS256","kid":"rsa"}`, "null"),
		"invalid UTF-8":           signText(t, methods["RS256"], rsaKey, `{"alg":"RS256","kid":"rsa"}`, strings.Replace(encode(t, claims(nil)), "alice", "ali\xffce", 1)),
		"members in capitals":     rs(kid, claims(map[string]any{"sub": nil, "SUB": "alice"})),
		"an ID token (nonce)":     rs(kid, claims(map[string]any{"nonce": "n"})),
		"an ID token (at_hash)":   rs(kid, claims(map[string]any{"at_hash": "h"})),
		"an ID token (c_hash)":    rs(kid, claims(map[string]any{"c_hash": "h"})),
		"an ID token (token_use)": rs(kid, claims(map[string]any{"token_use": "id"})),
		"a refresh token":         rs(kid, claims(map[string]any{"typ": "Refresh"})),
		"a token of type ID":      rs(kid, claims(map[string]any{"typ": "ID"})),
		"a logout token":          rs(with(map[string]any{"typ": "logout+jwt"}), claims(nil)),
		"an event":                rs(with(map[string]any{"typ": "secevent+jwt"}), claims(nil)),
		"events":                  rs(kid, claims(map[string]any{"events": map[string]any{}})),
		"bound to a key":          rs(kid, claims(map[string]any{"cnf": map[string]any{"jkt": "x"}})),
		"a proof of possession":   rs(with(map[string]any{"typ": "dpop+jwt"}), claims(nil)),
		"nested":                  rs(with(map[string]any{"typ": "JWT", "cty": "JWT"}), map[string]any{"jwt": good}),

		// 171 to 176
		"no kid":               rs(map[string]any{}, claims(nil)),
		"kid null":             rs(map[string]any{"kid": nil}, claims(nil)),
		"a kid that is a list": rs(map[string]any{"kid": []string{"rsa"}}, claims(nil)),
		"an unknown kid":       rs(map[string]any{"kid": "unknown"}, claims(nil)),
		"an empty kid":         rs(map[string]any{"kid": ""}, claims(nil)),
		"a kid like a path":    rs(map[string]any{"kid": "../../key"}, claims(nil)),
		"a kid like SQL":       rs(map[string]any{"kid": "' OR 1=1"}, claims(nil)),
		"a kid of 5 KB":        rs(map[string]any{"kid": strings.Repeat("k", 5000)}, claims(nil)),
		"a kid of 8 KB":        rs(map[string]any{"kid": strings.Repeat("k", 8<<10)}, claims(nil)),

		"9 KB of claims":  rs(kid, claims(map[string]any{"x": strings.Repeat("a", 9000)})),
		"nothing":         "",
		"a dot":           ".",
		"two dots":        "..",
		"an empty object": "e30.e30.e30",
		"an API token":    "tm_01KFTAMTQV8R3BDHE1Y5KZJ2NG_" + strings.Repeat("A", 43),
	}
	return list
}

// None of the forged tokens counts. To each there is a good one beside it, which
// shows that nothing else is wrong with it.
func TestForgedJWTs(t *testing.T) {
	a, _ := newTestAuthority(t, fileIssuer(t, testIssuer))
	now := time.Now()
	accepted(t, a, "the good one", sign(t, methods["RS256"], rsaKey, map[string]any{"kid": "rsa"}, claimsOf(testIssuer, now, nil)))
	for name, text := range forged(t, now) {
		refused(t, a, name, text)
	}
}

// With a secret, tokens of HS256 count and no others.
func TestSecret(t *testing.T) {
	secret := make([]byte, 40)
	rand.Read(secret)
	text := base64.StdEncoding.EncodeToString(secret)
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a, _ := newTestAuthority(t, Issuer{Issuer: "my app", Audience: List{"tidemark"}, SecretFile: path, Scopes: List{"sync"}}.named("my-app"))
	now := time.Now()
	claims := claimsOf("my-app", now, map[string]any{"scope": nil})
	p := accepted(t, a, "HS256", sign(t, methods["HS256"], []byte(text), nil, claims))
	if p.User != "jwt:my-app alice" || !p.Has(ScopeSync) {
		t.Errorf("it is about %+v", p)
	}
	for name, token := range map[string]string{
		"another secret": sign(t, methods["HS256"], []byte(text+"x"), nil, claims),
		"an empty one":   sign(t, methods["HS256"], []byte(""), nil, claims),
		"HS384":          sign(t, gojwt.SigningMethodHS384, []byte(text), nil, claims),
		"RS256":          sign(t, methods["RS256"], rsaKey, nil, claims),
		"none":           sign(t, methods["none"], gojwt.UnsafeAllowNoneSignatureType, nil, claims),
	} {
		refused(t, a, name, token)
	}
}

// named returns i under another name.
func (i Issuer) named(name string) Issuer { i.Issuer = name; return i }

// Several issuers count side by side, each with its keys, its audience and its
// users.
func TestSeveralIssuers(t *testing.T) {
	one := fileIssuer(t, testIssuer)
	two := Issuer{Issuer: "https://two.example.com", Audience: List{"two"}, Keys: keysFile(t, map[string]crypto.Signer{"rsa": otherRSAKey}), Scopes: List{"sync", "notes"}}
	a, _ := newTestAuthority(t, one, two)
	now := time.Now()
	kid := map[string]any{"kid": "rsa"}
	first := accepted(t, a, "one", sign(t, methods["RS256"], rsaKey, kid, claimsOf(one.Issuer, now, nil)))
	second := accepted(t, a, "two", sign(t, methods["RS256"], otherRSAKey, kid, claimsOf(two.Issuer, now, map[string]any{"aud": "two", "scope": nil})))
	if first.User == second.User {
		t.Errorf("both have the user %s", first.User)
	}
	if !second.Has("notes") || first.Has("notes") {
		t.Error("the scopes that one issuer's tokens get are not theirs alone")
	}
	refused(t, a, "with the key of the other", sign(t, methods["RS256"], rsaKey, kid, claimsOf(two.Issuer, now, map[string]any{"aud": "two"})))
	refused(t, a, "for the audience of the other", sign(t, methods["RS256"], rsaKey, kid, claimsOf(one.Issuer, now, map[string]any{"aud": "two"})))
	api, _ := create(t, a, TokenInfo{})
	accepted(t, a, "an API token beside them", api)
}

// ID tokens and stricter types are a matter of the issuer.
func TestKindsOfJWTs(t *testing.T) {
	ids := fileIssuer(t, testIssuer)
	ids.IDTokens = true
	strict := fileIssuer(t, "https://strict.example.com")
	strict.Type, strict.MaxLifetime = "at+jwt", Duration(time.Minute)
	a, _ := newTestAuthority(t, ids, strict)
	now := time.Now()
	token := func(issuer, typ string, changes map[string]any) string {
		return sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed", "typ": typ}, claimsOf(issuer, now, changes))
	}
	accepted(t, a, "an ID token", token(ids.Issuer, "JWT", map[string]any{"nonce": "n", "at_hash": "h"}))
	short := map[string]any{"exp": now.Unix() + 60}
	accepted(t, a, "an access token", token(strict.Issuer, "at+jwt", short))
	accepted(t, a, "in full", token(strict.Issuer, "application/AT+JWT", short))
	refused(t, a, "of another type", token(strict.Issuer, "JWT", short))
	refused(t, a, "for an hour", token(strict.Issuer, "at+jwt", nil))
}

// No two pairs of issuer and subject have the same user, none has that of an API
// token, and all are users.
func TestUsersOfJWTs(t *testing.T) {
	seen := map[string]string{}
	long := strings.Repeat("s", 255)
	for _, issuer := range []string{"a", "a:b", "https://id.example.com", "https://id.example.com/a", "sha256:" + strings.Repeat("0", 64), strings.Repeat("i", 512)} {
		for _, subject := range []string{"b", "b c", " b", "b ", "a b", "sha256:x", long, long[:254], "a" + long[:254], "é"} {
			user := userOf(issuer, subject)
			if pair := issuer + "\n" + subject; seen[user] != "" {
				t.Errorf("%q and %q both are %q", pair, seen[user], user)
			} else {
				seen[user] = pair
			}
			if !mutlog.User(user).Valid() || !strings.HasPrefix(user, "jwt:") {
				t.Errorf("%q is no user of a JWT", user)
			}
			info := TokenInfo{User: mutlog.User(user), Scopes: []string{"sync"}}
			if info.check(time.Now()) == nil {
				t.Errorf("an API token can be made for %q", user)
			}
		}
	}
}

// A token that was verified once counts until it expires, and not longer.
func TestJWTExpires(t *testing.T) {
	a, _ := newTestAuthority(t, fileIssuer(t, testIssuer))
	c := newClock()
	a.Now = c.now
	text := sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, c.now(), nil))
	p := accepted(t, a, "at first", text)
	if left := p.Expires.Sub(c.now()); left < time.Hour || left > time.Hour+leeway {
		t.Errorf("answers that last end after %v", left)
	}
	c.move(time.Hour)
	accepted(t, a, "within the leeway", text)
	c.move(leeway)
	refused(t, a, "after it", text)
}

// A user is signed out: tokens of before do not count any more, those of later do.
func TestSignOut(t *testing.T) {
	a, _ := newTestAuthority(t, fileIssuer(t, testIssuer))
	c := newClock()
	a.Now = c.now
	token := func(subject string) string {
		return sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, c.now(), map[string]any{"sub": subject}))
	}
	alice, bob := token("alice"), token("bob")
	noIssued := sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, c.now(), map[string]any{"iat": nil}))
	p := accepted(t, a, "alice", alice)
	accepted(t, a, "alice without iat", noIssued)
	c.move(2 * time.Second)
	if _, err := a.RevokeUser(t.Context(), p.User); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done:
	default:
		t.Error("an answer that lasts is not told that its user was signed out")
	}
	refused(t, a, "alice", alice)
	refused(t, a, "alice without iat", noIssued)
	accepted(t, a, "bob", bob)
	c.move(2 * time.Second)
	later := accepted(t, a, "alice, signed in again", token("alice"))
	select {
	case <-later.Done:
		t.Error("it ends at once")
	default:
	}
	other, err := NewAuthority(t.Context(), a.records, []Issuer{fileIssuer(t, testIssuer)}, a.logger)
	if err != nil {
		t.Fatal(err)
	}
	other.Now = c.now
	refused(t, other, "alice, at another server", alice)
	go other.Run(t.Context())
	operator, err := NewAuthority(t.Context(), a.records, nil, a.logger) // a command, which knows of no issuers
	if err != nil {
		t.Fatal(err)
	}
	operator.Now = c.now
	bobs := accepted(t, other, "bob, at another server", bob)
	if _, err := operator.RevokeUser(t.Context(), bobs.User); err != nil {
		t.Fatal(err)
	}
	if closed, err := operator.Closed(t.Context()); closed || err != nil {
		t.Errorf("signing out has closed servers without an issuer: %v, %v", closed, err)
	}
	eventually(t, "the other server to hear of it", func() bool {
		_, err := other.Verify(t.Context(), bob)
		return errors.Is(err, ErrInvalidToken)
	})
}

// A user who is erased stays signed out, for whoever opens the store later.
func TestSignOutOutlastsErasure(t *testing.T) {
	s := openStore(t)
	issuer := fileIssuer(t, testIssuer)
	open := func() *Authority {
		a, err := NewAuthority(t.Context(), s, []Issuer{issuer}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := open()
	text := sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(testIssuer, time.Now().Add(-time.Minute), nil))
	user := accepted(t, a, "at first", text).User
	if _, err := a.RevokeUser(t.Context(), user); err != nil {
		t.Fatal(err)
	}
	if err := s.Erase(t.Context(), user, mutlog.Timestamp(time.Now().UnixMilli()), func(int) {}); err != nil {
		t.Fatal(err)
	}
	refused(t, a, "after the erasure", text)
	refused(t, open(), "after the erasure, at another server", text)
}

// RevokeUser takes the API tokens of a user, and of no other.
func TestRevokeUser(t *testing.T) {
	a, _ := newTestAuthority(t)
	one, _ := create(t, a, TokenInfo{})
	two, _ := create(t, a, TokenInfo{Scopes: []string{ScopeRead}})
	bob, _ := create(t, a, TokenInfo{User: "bob"})
	if n, err := a.RevokeUser(t.Context(), "alice"); n != 2 || err != nil {
		t.Errorf("revoked %d, %v", n, err)
	}
	refused(t, a, "one", one)
	refused(t, a, "two", two)
	accepted(t, a, "bob", bob)
	if _, err := a.RevokeUser(t.Context(), "a\x00"); !errors.As(err, new(*TokenError)) {
		t.Errorf("a user with a NUL: %v", err)
	}
}

// The cache holds the tokens that were used last, and no more than it may.
func TestCache(t *testing.T) {
	c := newCache(3)
	hash := func(n byte) [32]byte { return [32]byte{n} }
	for n := range byte(3) {
		c.put(hash(n), verified{version: int(n)})
	}
	c.get(hash(0))
	c.put(hash(3), verified{version: 3})
	c.put(hash(3), verified{version: 4})
	for n, want := range []bool{true, false, true, true} {
		if _, ok := c.get(hash(byte(n))); ok != want {
			t.Errorf("token %d: %v, want %v", n, ok, want)
		}
	}
	if v, _ := c.get(hash(3)); v.version != 4 || len(c.tokens) != 3 || c.recent.Len() != 3 {
		t.Errorf("version %d, %d tokens, %d in the list", v.version, len(c.tokens), c.recent.Len())
	}
}
