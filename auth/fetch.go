package auth

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
)

const (
	fetchTimeout = 5 * time.Second
	maxRedirects = 3
)

// fetcher gets the key set of one issuer.
type fetcher struct {
	issuer string
	source string // a URL, the path of a file, or "" to discover a URL
	http   *http.Client
}

func newFetcher(i *Issuer) *fetcher {
	f := &fetcher{issuer: i.Issuer, source: i.Keys}
	trusted := i.Keys
	if trusted == "" {
		trusted = i.Issuer
	}
	host := ""
	if u, err := url.Parse(trusted); err == nil {
		host = net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme]))
	}
	f.http = &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{DialContext: dialFrom(host), TLSHandshakeTimeout: fetchTimeout, MaxResponseHeaderBytes: 64 << 10,
			DisableKeepAlives: true},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > maxRedirects {
				return errors.New("too many redirects")
			}
			if r.URL.Scheme != via[0].URL.Scheme {
				return errors.New("a redirect to another scheme")
			}
			return nil
		},
	}
	return f
}

// dialFrom dials the host that the operator has named wherever it is, and any
// other, to which a provider may send on, only on the public network: what it
// says must not make this server ask machines that only this server can reach.
func dialFrom(trusted string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		d := &net.Dialer{Timeout: fetchTimeout}
		if !strings.EqualFold(address, trusted) {
			d.Control = func(_, address string, _ syscall.RawConn) error { return refusePrivate(address) }
		}
		return d.DialContext(ctx, network, address)
	}
}

// special are networks that are not public, beside those that netip knows: what
// carriers share among their customers (RFC 6598), what protocols, benchmarks and
// nobody use, and the translation of IPv4 within a network (RFC 8215).
var special = []netip.Prefix{netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("::/96"), netip.MustParsePrefix("fec0::/10"), netip.MustParsePrefix("64:ff9b:1::/48")}

// gateways are the networks whose addresses hold, from a byte on, the IPv4
// address to which a gateway sends on: RFC 6052 and RFC 3056.
var gateways = map[netip.Prefix]int{netip.MustParsePrefix("64:ff9b::/96"): 12, netip.MustParsePrefix("2002::/16"): 2}

// behindGateway returns the address that is reached by ip.
func behindGateway(ip netip.Addr) netip.Addr {
	for network, from := range gateways {
		if text := ip.As16(); network.Contains(ip) {
			return netip.AddrFrom4([4]byte(text[from:]))
		}
	}
	return ip.Unmap()
}

func refusePrivate(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := behindGateway(at.Addr())
	if !ip.IsGlobalUnicast() || ip.IsPrivate() || slices.ContainsFunc(special, func(n netip.Prefix) bool { return n.Contains(ip) }) {
		return fmt.Errorf("%s is on a private network, and another host than the one that was configured", ip)
	}
	return nil
}

// keySet gets the text of the key set.
func (f *fetcher) keySet(ctx context.Context) ([]byte, error) {
	if f.isFile() {
		return readAtMost(f.source)
	}
	source := f.source
	if source == "" {
		var err error
		if source, err = f.discover(ctx); err != nil {
			return nil, fmt.Errorf("discovering the keys: %w", err)
		}
	}
	return f.get(ctx, source)
}

// discover asks where the keys are (OpenID Connect Discovery 1.0).
func (f *fetcher) discover(ctx context.Context) (string, error) {
	text, err := f.get(ctx, strings.TrimSuffix(f.issuer, "/")+"/.well-known/openid-configuration")
	if err != nil {
		return "", err
	}
	var provider struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(text, &provider); err != nil {
		return "", err
	}
	if provider.Issuer != f.issuer {
		return "", fmt.Errorf("the provider calls itself %q, and not %q", provider.Issuer, f.issuer)
	}
	from, err := url.Parse(f.issuer)
	if err != nil {
		return "", err
	}
	to, err := keysURL(provider.Keys)
	if err == nil && to.Scheme != from.Scheme {
		err = errors.New("the keys are at an address of another scheme")
	}
	return provider.Keys, err
}

func (f *fetcher) get(ctx context.Context, from string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/json")
	res, err := f.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", from, res.Status)
	}
	return limited(res.Body, from)
}

func readAtMost(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return limited(file, path)
}

// limited reads r to its end, which must come in time.
func limited(r io.Reader, from string) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxKeySetBytes+1))
	if err == nil && len(text) > maxKeySetBytes {
		err = fmt.Errorf("%s is larger than %d bytes", from, maxKeySetBytes)
	}
	return text, err
}

// isFile tells whether the keys come from a file.
func (f *fetcher) isFile() bool { return f.source != "" && !strings.Contains(f.source, "://") }
