package auth

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"tidemark/mutlog"
)

// rsaToken is a good token that is signed by key under the id kid.
func rsaToken(t testing.TB, issuer string, now time.Time, kid string, key crypto.Signer) string {
	return sign(t, methods["RS256"], key, map[string]any{"kid": kid}, claimsOf(issuer, now, nil))
}

// TestF40Provider goes through a provider's life: it is discovered, it rotates its
// keys, is away, slow, hostile, and comes back. What was known goes on counting
// for a day and more; what is unknown is refused at once; and whatever tokens
// come, the provider is asked once a minute at most.
func TestF40Provider(t *testing.T) {
	p := newProvider(t)
	a, log := newTestAuthority(t, p.issuer())
	c := newClock()
	a.Now = c.now
	first := rsaToken(t, p.URL, c.now(), "rsa", rsaKey)
	accepted(t, a, "discovered", first) // waits for the first fetch
	if n := p.asked.Load(); n != 1 {
		t.Fatalf("asked %d times", n)
	}

	t.Run("rotated", func(t *testing.T) {
		p.rotate(map[string]crypto.Signer{"new": otherRSAKey, "rsa": rsaKey})
		next := rsaToken(t, p.URL, c.now(), "new", otherRSAKey)
		refused(t, a, "within the minute", next)
		c.move(fetchEvery)
		accepted(t, a, "after the minute", next)
		accepted(t, a, "signed with the old one", first)
		p.rotate(map[string]crypto.Signer{"new": otherRSAKey})
		c.move(refreshEvery)
		a.jwts.issuers[p.URL].keys.keep()
		eventually(t, "a key that the provider has withdrawn to be refused", func() bool {
			_, err := a.Verify(t.Context(), first)
			return errors.Is(err, ErrInvalidToken)
		})
		if n := p.asked.Load(); n != 3 {
			t.Errorf("asked %d times", n)
		}
	})

	flood := func(t *testing.T, name string) {
		t.Helper()
		before := p.asked.Load()
		var slow sync.Map
		var running sync.WaitGroup
		for n := range 1000 {
			running.Add(1)
			go func() {
				defer running.Done()
				unknown := sign(t, methods["EdDSA"], edKey, map[string]any{"kid": fmt.Sprint("unknown", n, name)}, claimsOf(p.URL, c.now(), nil))
				begun := time.Now()
				_, err := a.Verify(t.Context(), unknown)
				if took := time.Since(begun); took > 10*time.Second { // with room for a loaded machine
					slow.Store(n, took)
				}
				if !errors.Is(err, ErrInvalidToken) {
					t.Errorf("an unknown kid: %v", err)
				}
			}()
			if n%50 == 0 {
				running.Wait()
			}
		}
		running.Wait()
		slow.Range(func(n, took any) bool { t.Errorf("request %v took %v", n, took); return false })
		if asked := p.asked.Load() - before; asked > 1 {
			t.Errorf("1,000 unknown keys made the server ask %d times", asked)
		}
	}
	for name, answer := range map[string]http.HandlerFunc{
		"answers 500":      func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"answers nonsense": func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) },
		"has no keys":      func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte(`{"keys":[]}`)) },
		"hangs up":         func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"sends without end": func(w http.ResponseWriter, _ *http.Request) {
			for chunk := bytes.Repeat([]byte(" "), 64<<10); ; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		},
		"redirects inside": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/latest/meta-data", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.move(2 * fetchEvery)
			p.fail(answer)
			flood(t, name)
			eventually(t, "the fetch to fail", func() bool { return !fetching(a, p) })
			token := rsaToken(t, p.URL, c.now(), "new", otherRSAKey)
			accepted(t, a, "with a key that is known", token)
		})
	}
	t.Run("is not asked for what cannot count", func(t *testing.T) {
		c.move(2 * fetchEvery)
		before := p.asked.Load()
		refused(t, a, "another algorithm", sign(t, methods["PS256"], rsaKey, map[string]any{"kid": "unknown"}, claimsOf(p.URL, c.now(), nil)))
		refused(t, a, "no kid", sign(t, methods["RS256"], rsaKey, nil, claimsOf(p.URL, c.now(), nil)))
		refused(t, a, "another issuer", rsaToken(t, "https://other.example.com", c.now(), "unknown", rsaKey))
		if p.asked.Load() != before || fetching(a, p) {
			t.Error("it was")
		}
	})
	t.Run("is slow", func(t *testing.T) {
		c.move(2 * fetchEvery)
		end := make(chan struct{})
		p.fail(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-end:
			case <-r.Context().Done():
			}
		})
		flood(t, "slow")
		accepted(t, a, "with a key that is known", rsaToken(t, p.URL, c.now(), "new", otherRSAKey))
		close(end)
		eventually(t, "the fetch to end", func() bool { return !fetching(a, p) })
	})
	t.Run("is away for a day", func(t *testing.T) {
		p.fail(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		for range 24 {
			c.move(time.Hour)
			a.jwts.issuers[p.URL].keys.keep()
			eventually(t, "the fetch to fail", func() bool { return !fetching(a, p) })
			accepted(t, a, "with a key that is known", rsaToken(t, p.URL, c.now(), "new", otherRSAKey))
		}
		c.move(keysLast)
		if _, err := a.Verify(t.Context(), rsaToken(t, p.URL, c.now(), "new", otherRSAKey)); !errors.Is(err, mutlog.ErrUnavailable) {
			t.Errorf("after %v: %v", keysLast, err)
		}
	})
	t.Run("is back", func(t *testing.T) {
		p.fail(nil)
		c.move(fetchEvery)
		accepted(t, a, "with the next request", rsaToken(t, p.URL, c.now(), "new", otherRSAKey))
	})
	if strings.Contains(log.String(), "eyJ") {
		t.Error("the log holds a token")
	}
}

func fetching(a *Authority, p *provider) bool {
	s := a.jwts.issuers[p.URL].keys
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetching != nil
}

// TestF40Start: a server that starts while the provider is down answers that it
// cannot tell, and lets API tokens in; on a store that has seen the keys it
// knows them.
func TestF40Start(t *testing.T) {
	p := newProvider(t)
	p.fail(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	s := openStore(t)
	start := func() (*Authority, *clock) {
		a, err := NewAuthority(t.Context(), s, []Issuer{p.issuer()}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		c := newClock()
		a.Now = c.now
		return a, c
	}
	a, c := start()
	token := rsaToken(t, p.URL, c.now(), "rsa", rsaKey)
	if _, err := a.Verify(t.Context(), token); !errors.Is(err, mutlog.ErrUnavailable) || errors.Is(err, ErrInvalidToken) {
		t.Errorf("a JWT before the keys are known: %v", err)
	}
	refused(t, a, "of another issuer", rsaToken(t, "https://other.example.com", c.now(), "rsa", rsaKey))
	refused(t, a, "no token at all", "x")
	api, _ := create(t, a, TokenInfo{})
	accepted(t, a, "an API token", api)

	p.fail(nil)
	go a.Run(t.Context())
	eventually(t, "the provider to be asked again", func() bool {
		c.move(fetchEvery)
		a.jwts.issuers[p.URL].keys.keep()
		_, err := a.Verify(t.Context(), rsaToken(t, p.URL, c.now(), "rsa", rsaKey))
		return err == nil
	})
	eventually(t, "the keys to be kept", func() bool {
		value, err := s.Record(t.Context(), keysKey(p.URL))
		return err == nil && value != nil
	})

	p.fail(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	again, c := start()
	accepted(t, again, "with the keys of the run before", rsaToken(t, p.URL, c.now(), "rsa", rsaKey))
}

// A provider may send this server to another host on the public network, and to
// no private one, nor anywhere without encryption.
func TestFetchStaysOutside(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:80": false, "10.1.2.3:443": false, "192.168.1.1:443": false, "172.16.0.1:443": false, "169.254.169.254:80": false,
		"100.64.1.1:443": false, "0.0.0.0:80": false, "255.255.255.255:80": false, "224.0.0.1:80": false, "[::1]:80": false, "[fe80::1]:80": false,
		"[fd00::1]:443": false, "[::ffff:127.0.0.1]:80": false, "[::ffff:10.0.0.1]:80": false, "[::]:80": false, "x": false,
		"198.18.0.1:80": false, "192.0.0.8:80": false, "240.0.0.1:80": false, "[::127.0.0.1]:80": false, "[fec0::1]:80": false,
		"[64:ff9b::a9fe:a9fe]:80": false, "[64:ff9b::10.1.2.3]:80": false, "[64:ff9b:1::5db8:d822]:80": false, "[2002:7f00:1::]:80": false, "[2002:c0a8:101::1]:80": false,
		"93.184.216.34:443": true, "[2606:2800:220:1::1]:443": true, "[64:ff9b::5db8:d822]:443": true, "[2002:5db8:d822::1]:443": true,
	} {
		if got := refusePrivate(address) == nil; got != want {
			t.Errorf("%s: allowed %v", address, got)
		}
	}
	hit := false
	inside := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hit = true }))
	defer inside.Close()
	for name, target := range map[string]string{"another host inside": inside.URL, "another scheme": "https" + strings.TrimPrefix(inside.URL, "http"), "a file": "file:///etc/passwd"} {
		redirects := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/keys" {
				http.Redirect(w, r, target, http.StatusFound)
				return
			}
			json.NewEncoder(w).Encode(map[string]string{"issuer": "http://" + r.Host, "jwks_uri": target})
		}))
		for _, i := range []Issuer{{Issuer: redirects.URL, Keys: redirects.URL + "/keys"}, {Issuer: redirects.URL}} {
			text, err := newFetcher(&i).keySet(t.Context())
			if err == nil || strings.HasPrefix(name, "another") && i.Keys != "" && !strings.Contains(err.Error(), map[bool]string{true: "another scheme", false: "private network"}[name == "another scheme"]) {
				t.Errorf("%s: %q, %v", name, text, err)
			}
		}
		redirects.Close()
	}
	if hit {
		t.Error("the machine inside was asked")
	}
}

// A provider must call itself what the operator calls it.
func TestDiscoveryOfAnother(t *testing.T) {
	p := newProvider(t)
	i := Issuer{Issuer: strings.Replace(p.URL, "127.0.0.1", "localhost", 1)}
	if _, err := newFetcher(&i).keySet(t.Context()); err == nil || !strings.Contains(err.Error(), "calls itself") {
		t.Errorf("%v", err)
	}
}

// Of a key set those keys count that this server can use, and no secrets.
func TestKeySets(t *testing.T) {
	good := string(jwkSet(t, map[string]crypto.Signer{"rsa": rsaKey, "ec": ecKey, "ed": edKey}))
	keys, err := parseKeySet([]byte(good))
	if err != nil || len(keys) != 3 || keys["rsa"].method.Alg() != "RS256" || keys["ec"].method.Alg() != "ES256" || keys["ed"].method.Alg() != "EdDSA" {
		t.Fatalf("%v, %v", keys, err)
	}
	one := string(jwkSet(t, map[string]crypto.Signer{"rsa": rsaKey}))
	for name, c := range map[string]struct{ from, to, want string }{
		"no JSON":                {"}", "", "no key set"},
		"two members":            {`"keys"`, `"keys":[],"keys"`, "no key set"},
		"no keys":                {one, `{}`, "no key that can be used"},
		"no id":                  {`"kid":"rsa",`, "", "has no id"},
		"for encryption":         {`"use":"sig"`, `"use":"enc"`, "not for signatures"},
		"for another algorithm":  {`"use":"sig"`, `"use":"sig","alg":"PS256"`, "is for PS256"},
		"a secret":               {one, `{"keys":[{"kty":"oct","kid":"rsa","k":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}`, "is a secret"},
		"a private key":          {`"use":"sig"`, `"use":"sig","d":"AQAB"`, "is a secret"},
		"another kind of key":    {`"kty":"RSA"`, `"kty":"XYZ"`, "no key that can be used"},
		"another curve":          {one, `{"keys":[{"kty":"EC","crv":"P-384","kid":"x","x":"AA","y":"AA"}]}`, "no key that can be used"},
		"a key too large":        {one, `{"keys":[{"kty":"RSA","kid":"x","e":"AQAB","n":"` + strings.Repeat("_", 1<<16) + `"}]}`, "bits"},
		"a key that is too weak": {one, `{"keys":[{"kty":"RSA","kid":"x","e":"AQAB","n":"` + strings.Repeat("_", 171) + `"}]}`, "bits"},
		"two keys of one id":     {one, strings.Replace(good, `"kid":"ec"`, `"kid":"rsa"`, 1), "two keys"},
		"too many":               {one, `{"keys":[` + strings.Repeat(`{},`, 100) + `{}]}`, "more than"},
		"too large":              {one, strings.Repeat(" ", maxKeySetBytes+1), "larger"},
	} {
		text := strings.Replace(one, c.from, c.to, 1)
		if text == one {
			t.Errorf("%s: nothing has changed in %s", name, one)
		}
		if keys, err := parseKeySet([]byte(text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, %v, want %q", name, keys, err, c.want)
		}
	}
	mixed := strings.Replace(good, `{"keys":[`, `{"keys":[{"kty":"oct","kid":"s","k":"AAAA"},`, 1)
	if keys, err := parseKeySet([]byte(mixed)); err != nil || len(keys) != 3 {
		t.Errorf("one that cannot be used beside three: %v, %v", keys, err)
	}
}

// A file of keys is read at the start, when it must be right, and again when it
// has changed.
func TestKeysFile(t *testing.T) {
	i := fileIssuer(t, testIssuer)
	a, _ := newTestAuthority(t, i)
	c := newClock()
	a.Now = c.now
	next := rsaToken(t, testIssuer, c.now(), "next", otherRSAKey)
	refused(t, a, "before", next)
	if err := os.WriteFile(i.Keys, jwkSet(t, map[string]crypto.Signer{"next": otherRSAKey}), 0o600); err != nil {
		t.Fatal(err)
	}
	c.move(refreshEvery)
	accepted(t, a, "after", rsaToken(t, testIssuer, c.now(), "next", otherRSAKey))
	if err := os.WriteFile(i.Keys, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.move(refreshEvery)
	accepted(t, a, "with a file that is broken", rsaToken(t, testIssuer, c.now(), "next", otherRSAKey))
}
