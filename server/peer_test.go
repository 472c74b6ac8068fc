package server

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
)

// Whom a request is from: the peer, unless that is a proxy whose word counts
// (abuse row 44).
func TestProxies(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48"), netip.MustParsePrefix("127.0.0.1/32")}
	for _, c := range []struct {
		peer  string
		lines []string
		want  string
	}{
		// Nobody else is believed.
		{"203.0.113.9:1234", nil, "203.0.113.9"},
		{"203.0.113.9:1234", []string{"1.2.3.4"}, "203.0.113.9"},
		{"203.0.113.9:1234", []string{strings.Repeat("1.2.3.4, ", 10000) + "1.2.3.4"}, "203.0.113.9"},
		{"[2001:db8:2::1]:1234", []string{"1.2.3.4"}, "2001:db8:2::1"},
		{"[::ffff:203.0.113.9]:1234", nil, "203.0.113.9"},
		{"[fe80::1%eth0]:1234", nil, "fe80::1"},
		{"", []string{"1.2.3.4"}, "invalid IP"},
		{"@", []string{"1.2.3.4"}, "invalid IP"},

		// A proxy is, about its own peer, and so on from right to left.
		{"10.0.0.1:1", []string{"1.2.3.4"}, "1.2.3.4"},
		{"[::ffff:10.0.0.1]:1", []string{"1.2.3.4"}, "1.2.3.4"},
		{"[2001:db8:1::9]:1", []string{"2001:db8:2::1"}, "2001:db8:2::1"},
		{"10.0.0.1:1", []string{"6.6.6.6, 1.2.3.4"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"6.6.6.6", "1.2.3.4"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"6.6.6.6, 1.2.3.4, 10.9.9.9"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"6.6.6.6, 1.2.3.4", "10.9.9.9,10.8.8.8", "127.0.0.1"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{" 1.2.3.4\t"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"1.2.3.4:567"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{"[2001:db8:2::1]:567"}, "2001:db8:2::1"},
		{"10.0.0.1:1", []string{"[2001:db8:2::1]"}, "2001:db8:2::1"},
		{"10.0.0.1:1", []string{"::ffff:1.2.3.4"}, "1.2.3.4"},
		{"10.0.0.1:1", []string{strings.Repeat("6.6.6.6, ", 10000) + "1.2.3.4"}, "1.2.3.4"},

		// What is no address says nothing, and what stands before it is hearsay.
		{"10.0.0.1:1", nil, "10.0.0.1"},
		{"10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"unknown"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"1.2.3.4, unknown"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"1.2.3.4, unknown, 10.2.2.2"}, "10.2.2.2"},
		{"10.0.0.1:1", []string{"1.2.3.4,"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"10.2.2.2, 10.3.3.3"}, "10.2.2.2"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.lines, "Forwarded": {"for=9.9.9.9"}}}
		p := Proxies{Trusted: trusted}
		if got := p.ofRequest(r).String(); got != c.want {
			t.Errorf("%s, %.80q: %s, want %s", c.peer, c.lines, got, c.want)
		}
	}
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{[]string{"for=1.2.3.4"}, "1.2.3.4"},
		{[]string{`For="[2001:db8:2::1]:4711"`}, "2001:db8:2::1"},
		{[]string{`proto=https;for="1.2.3.4:80";by=203.0.113.43`}, "1.2.3.4"},
		{[]string{"for=6.6.6.6, for=1.2.3.4; proto=http, for=10.1.1.1"}, "1.2.3.4"},
		{[]string{"for=6.6.6.6", "for=1.2.3.4"}, "1.2.3.4"},
		{[]string{"for=6.6.6.6, for=_hidden"}, "10.0.0.1"},
		{[]string{"for=6.6.6.6, proto=https"}, "10.0.0.1"},
		{[]string{"1.2.3.4"}, "10.0.0.1"},
		{nil, "10.0.0.1"},
	} {
		r := &http.Request{RemoteAddr: "10.0.0.1:1", Header: http.Header{"Forwarded": c.lines, "X-Forwarded-For": {"9.9.9.9"}}}
		p := Proxies{Trusted: trusted, Forwarded: true}
		if got := p.ofRequest(r).String(); got != c.want {
			t.Errorf("Forwarded %q: %s, want %s", c.lines, got, c.want)
		}
	}
}
