package server

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// pageError refuses what a web page seems to ask.
type pageError struct{ message, header string }

func (e *pageError) Error() string { return e.message }

// keepPagesOut refuses what a web page of somebody else makes a browser ask. A
// server without authentication takes for its user whoever reaches it, and a
// browser on its machine does, whatever page it shows. Programs that are no
// browsers are none the wiser.
//
// Host tells of a page whose name was made to point at this machine (DNS
// rebinding): to the browser that page and this server are one origin. Origin
// and Sec-Fetch-Site tell of all other pages.
func (s *Server) keepPagesOut(r *http.Request) error {
	if !s.isOwnHost(r) {
		return &pageError{"A server without authentication answers to this machine's own names and addresses only, not to the host " +
			clip(r.Host) + "; --allowed-host lets it answer to another", "Host"}
	}
	const pages = "A server without authentication does not answer web pages of other origins; --cors-origin lets one in"
	if origins, present := r.Header["Origin"]; present {
		if len(origins) == 1 && (s.allowsOrigin(origins[0]) || isSameOrigin(r, origins[0])) {
			return nil
		}
		return &pageError{pages, "Origin"}
	}
	for _, site := range r.Header["Sec-Fetch-Site"] {
		if site != "same-origin" && site != "none" { // none: its user typed the address
			return &pageError{pages, "Sec-Fetch-Site"}
		}
	}
	return nil
}

// isOwnHost tells whether Host is a name that no page of others can have: a
// loopback one, one that the options list, or an address. A browser looks up no
// address, so none can be made to point here; but a server that listens on the
// loopback interface has no use for any other. Only HTTP/1.0 may leave Host out.
func (s *Server) isOwnHost(r *http.Request) bool {
	host := hostname(r.Host)
	if host == "" || isLoopbackName(host) || s.hosts[host] {
		return true
	}
	_, err := netip.ParseAddr(host)
	return err == nil && !cameOverLoopback(r)
}

// isLoopbackName tells whether a name or address is this machine's to every
// machine.
func isLoopbackName(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost")
}

// cameOverLoopback tells whether the connection of a request was made to a
// loopback address, as far as that is known.
func cameOverLoopback(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	tcp, ok := local.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

// hostname returns the name or address in host, which may end in a port or, as a
// name, in a dot.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// isSameOrigin tells whether a page of origin came from the host of the request.
func isSameOrigin(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(u.Host, r.Host)
}

// ParseOrigin returns an origin as browsers write it: scheme, host and, unless
// it is that of the scheme, port. It fails on anything more or less.
func ParseOrigin(s string) (string, error) {
	u, err := url.Parse(strings.ToLower(s))
	if err != nil || u.Scheme == "" || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" || u.Fragment != "" ||
		strings.ContainsAny(s, "*?#") {
		return "", errors.New("an origin is scheme://host or scheme://host:port")
	}
	if port := u.Port(); u.Scheme == "http" && port == "80" || u.Scheme == "https" && port == "443" {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	return u.Scheme + "://" + u.Host, nil
}
