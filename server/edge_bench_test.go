//go:build !race

package server_test

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"tidemark/server"
)

// BenchmarkPollAtEdge is a poll without rates and observers, and with them: for
// a client that the rates do not bound, for one that they do, and behind a
// trusted proxy.
func BenchmarkPollAtEdge(b *testing.B) {
	rates := server.Rates{User: server.Rate{Requests: 1e9, Window: time.Second}, Peer: server.Rate{Requests: 1e9, Window: time.Second},
		Failed: server.Rate{Requests: 20, Window: time.Second}, Exempt: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}
	for _, c := range []struct {
		name, peer string
		change     func(*server.Options)
	}{
		{"nothing", "203.0.113.1:1", func(*server.Options) {}},
		{"exempt", "127.0.0.1:1", func(o *server.Options) { o.Rates = rates }},
		{"rates", "203.0.113.1:1", func(o *server.Options) { o.Rates = rates }},
		{"proxy", "10.0.0.1:1", func(o *server.Options) {
			o.Rates = rates
			o.Proxies.Trusted = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		}},
		{"observed", "203.0.113.1:1", func(o *server.Options) { o.Observe = func(*server.Exchange) {} }},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, _ := newServer(b, c.change)
			r := httptest.NewRequest("GET", "/v1/sync?mutationsSince=0&metadataOnly=true", http.NoBody)
			r.Host, r.RemoteAddr = "localhost", c.peer
			r.Header.Set("X-Forwarded-For", "198.51.100.7, 203.0.113.9")
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				s.ServeHTTP(w, r)
				if w.Header().Get("Retry-After") != "" {
					b.Fatal("refused")
				}
			}
		})
	}
}
