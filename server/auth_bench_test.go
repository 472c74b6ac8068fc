package server_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"tidemark/auth"
	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store"
)

// BenchmarkAuthentication compares servers that differ in nothing but in who may ask: everybody, who has an API token,
// and who has a JWT of RS256. They take turns, so that whatever else the machine does is shared by all. It reports the
// median time of a request to the open server, and what the others take more, in percent.
//
//	go test ./server -run '^$' -bench Authentication -benchtime 200x
func BenchmarkAuthentication(b *testing.B) {
	const workers, requests = 8, 25 // of each server, in each turn
	for _, kind := range []string{"poll", "push"} {
		b.Run(kind, func(b *testing.B) {
			subjects := []*subject{newSubject(b, ""), newSubject(b, auth.Token), newSubject(b, auth.JWT)}
			for _, s := range subjects {
				s.turn(b, kind, workers, 2)
				s.turns = nil
			}
			for n := 0; b.Loop(); n++ {
				for i := range subjects {
					subjects[(n+i)%len(subjects)].turn(b, kind, workers, requests)
				}
			}
			open := subjects[0].median()
			b.ReportMetric(open/(workers*requests)/1e3, "open-µs/request")
			b.ReportMetric(100*(subjects[1].median()/open-1), "token-cost-%")
			b.ReportMetric(100*(subjects[2].median()/open-1), "jwt-cost-%")
		})
	}
}

// subject is a server, and what its devices send.
type subject struct {
	url    string
	http   *http.Client
	tokens []string // of each worker, or none
	heads  []string // of each worker's log
	turns  []time.Duration
}

// median returns the middle of the times that the turns took, in nanoseconds: a turn in which the machine had other
// things to do says nothing.
func (s *subject) median() float64 {
	slices.Sort(s.turns)
	return float64(s.turns[len(s.turns)/2])
}

// newSubject starts a server that asks for a credential of that kind.
func newSubject(b *testing.B, method auth.Method) *subject {
	bolt, err := store.OpenBolt(filepath.Join(b.TempDir(), "bench.db"), store.BoltOptions{})
	if err != nil {
		b.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	s := &subject{http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}}
	a, err := auth.NewAuthority(context.Background(), bolt, s.sign(b, method), logger)
	if err != nil {
		b.Fatal(err)
	}
	for n := range len(s.heads) {
		s.heads[n] = "-1"
		if method == auth.Token {
			text, _, err := a.Create(context.Background(), auth.TokenInfo{User: mutlog.User(fmt.Sprint("user-", n)), Scopes: []string{auth.ScopeSync}})
			if err != nil {
				b.Fatal(err)
			}
			s.tokens = append(s.tokens, text)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s.url = "http://" + l.Addr().String() + "/v1/sync?"
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	running.Go(func() {
		server.New(server.Options{Log: mutlog.New(bolt, mutlog.DefaultLimits), Limits: mutlog.DefaultLimits, MaxBodyBytes: 1 << 20,
			Logger: logger, Authenticate: server.Authenticator(a)}).Serve(ctx, l)
	})
	b.Cleanup(func() {
		s.http.CloseIdleConnections()
		stop()
		running.Wait()
		bolt.Close()
	})
	return s
}

// sign makes the tokens of JWTs, and the issuer that they are of.
func (s *subject) sign(b *testing.B, method auth.Method) []auth.Issuer {
	s.heads = make([]string, 8)
	if method != auth.JWT {
		return nil
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		b.Fatal(err)
	}
	jwk, err := jwkset.NewJWKFromKey(crypto.Signer(key).Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "k"}})
	if err != nil {
		b.Fatal(err)
	}
	text, err := json.Marshal(jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{jwk.Marshal()}})
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "keys.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		b.Fatal(err)
	}
	for n := range len(s.heads) {
		t := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{"iss": "https://id.example.com", "aud": "tidemark", "sub": fmt.Sprint("user-", n),
			"scope": "sync", "iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix()})
		t.Header["kid"] = "k"
		text, err := t.SignedString(key)
		if err != nil {
			b.Fatal(err)
		}
		s.tokens = append(s.tokens, text)
	}
	return []auth.Issuer{{Issuer: "https://id.example.com", Audience: auth.List{"tidemark"}, Keys: path}}
}

// turn lets each of the workers make requests of a kind, all at the same time.
func (s *subject) turn(b *testing.B, kind string, workers, requests int) {
	begun := time.Now()
	var running sync.WaitGroup
	for n := range workers {
		running.Go(func() {
			for i := range requests {
				var err error
				if kind == "poll" {
					_, err = s.ask(n, "GET", "mutationsSince=0&metadataOnly=true", nil)
				} else {
					s.heads[n], err = s.ask(n, "POST", "lastMutationAt="+s.heads[n], batch(i))
				}
				if err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	running.Wait()
	s.turns = append(s.turns, time.Since(begun))
}

// batch is a push of 10 mutations.
func batch(n int) []byte {
	body := bytes.NewBufferString(`{"mutations":[`)
	for i := range 10 {
		if i > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(body, `{"type":"CREATE","resource":"NOTE","resourceId":"note-%d","data":{"title":"a title","body":"%0200d"}}`, i, n)
	}
	body.WriteString(`]}`)
	return body.Bytes()
}

// ask makes a request of the worker n and returns the head that the answer tells.
func (s *subject) ask(n int, method, query string, body []byte) (head string, err error) {
	r, err := http.NewRequest(method, s.url+query, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	r.Header.Set("Content-Type", "application/json")
	if s.tokens == nil {
		r.Header.Set("X-User-Id", fmt.Sprint("user-", n))
	} else {
		r.Header.Set("Authorization", "Bearer "+s.tokens[n])
	}
	res, err := s.http.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s, %v", res.Status, err)
	}
	return res.Header.Get("X-Mutation-At"), nil
}
