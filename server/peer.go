package server

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// Proxies say which peers are proxies that tell the truth about whom they speak
// for, and in which header they tell it.
type Proxies struct {
	// Trusted are the addresses of the proxies.
	Trusted []netip.Prefix

	// Forwarded says that they write Forwarded (RFC 7239) rather than
	// X-Forwarded-For. Only one of the two is read: most proxies pass on the
	// one that they do not write, with whatever the client has put into it.
	Forwarded bool
}

// ofRequest returns the address of the client that made the request: the peer of
// the connection or, if that is a trusted proxy, whom it speaks for, and so on.
// It is invalid where there is none, as on a Unix socket.
func (p *Proxies) ofRequest(r *http.Request) netip.Addr {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	addr := bare(peer.Addr())
	if err != nil || !p.trusts(addr) {
		return addr
	}
	name, parse := "X-Forwarded-For", parseNode
	if p.Forwarded {
		name, parse = "Forwarded", parseForwarded
	}
	// Each proxy adds the peer that it sees at the end, so all behind what the
	// first trusted proxy has added is true, and all before it is hearsay.
	for _, line := range slices.Backward(r.Header[name]) {
		for line != "" {
			comma := strings.LastIndexByte(line, ',')
			next, ok := parse(line[comma+1:])
			if !ok {
				return addr
			}
			addr = next
			if !p.trusts(addr) {
				return addr
			}
			line = line[:max(comma, 0)]
		}
	}
	return addr
}

func (p *Proxies) trusts(addr netip.Addr) bool { return within(p.Trusted, addr) }

func within(prefixes []netip.Prefix, addr netip.Addr) bool {
	for _, prefix := range prefixes {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// bare returns the address in the one form in which it is compared.
func bare(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// parseNode reads an address that may have a port, as proxies write it.
func parseNode(s string) (netip.Addr, bool) {
	s = strings.TrimSpace(s)
	if addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		return bare(addr), true
	}
	withPort, err := netip.ParseAddrPort(s)
	return bare(withPort.Addr()), err == nil
}

// parseForwarded reads the address of an element of Forwarded: for=192.0.2.1 or
// for="[2001:db8::1]:4711", among other pairs.
func parseForwarded(element string) (netip.Addr, bool) {
	for pair := range strings.SplitSeq(element, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
		if strings.EqualFold(name, "for") {
			return parseNode(strings.Trim(value, `"`))
		}
	}
	return netip.Addr{}, false
}
