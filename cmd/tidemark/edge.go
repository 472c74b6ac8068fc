package main

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"

	"tidemark/server"
)

// edgeFlags say whom the server answers, and how often.
type edgeFlags struct {
	AllowedHost    []host      `help:"Name beside its own under which a server without authentication answers, as it stands in Host." placeholder:"NAME"`
	CORSOrigin     []origin    `name:"cors-origin" help:"Origin whose web apps may use the server, like https://notes.example." placeholder:"ORIGIN"`
	TrustedProxies []network   `help:"Networks of the reverse proxies whose word counts about the addresses of clients." placeholder:"CIDR"`
	ProxyHeader    string      `help:"The header in which these proxies tell the address: x-forwarded-for or forwarded; the other is not read." enum:"x-forwarded-for,forwarded" default:"x-forwarded-for"`
	UserRate       server.Rate `help:"How often each user may ask: a bucket of so many requests that refills in such a time; 0 for no bound." default:"500/10s"`
	AddressRate    server.Rate `help:"How often each address may ask, an IPv6 /64 being one; 0 for no bound." default:"2000/10s"`
	FailedAuthRate server.Rate `help:"How often each address may fail to authenticate before it has to wait; 0 for no bound." default:"20/10s"`
	RateExempt     []network   `help:"Networks that the rates do not bound; empty for none." default:"127.0.0.0/8,::1/128"`
}

// origin is one of server.ParseOrigin.
type origin string

func (o *origin) UnmarshalText(text []byte) error {
	parsed, err := server.ParseOrigin(string(text))
	*o = origin(parsed)
	return err
}

// host is a name or address as it stands in Host.
type host string

func (h *host) UnmarshalText(text []byte) error {
	u, err := url.Parse("//" + string(text))
	if err != nil || u.Hostname() == "" || u.Host != string(text) {
		return errors.New("a host is a name or an address, and perhaps a port, like notes.example")
	}
	*h = host(text)
	return nil
}

// network is one of a CIDR or of a single address.
type network netip.Prefix

func (n *network) UnmarshalText(text []byte) error {
	if addr, err := netip.ParseAddr(string(text)); err == nil {
		*n = network(netip.PrefixFrom(addr, addr.BitLen()))
		return nil
	}
	prefix, err := netip.ParsePrefix(string(text))
	if err != nil {
		return fmt.Errorf("%q is neither a network like 10.0.0.0/8 nor an address", text)
	}
	*n = network(prefix.Masked())
	return nil
}

func prefixes(networks []network) (list []netip.Prefix) {
	for _, n := range networks {
		list = append(list, netip.Prefix(n))
	}
	return list
}

// fill fills in the options of a server.
func (f *edgeFlags) fill(o *server.Options) {
	for _, host := range f.AllowedHost {
		o.AllowedHosts = append(o.AllowedHosts, string(host))
	}
	for _, origin := range f.CORSOrigin {
		o.Origins = append(o.Origins, string(origin))
	}
	o.Proxies = server.Proxies{Trusted: prefixes(f.TrustedProxies), Forwarded: f.ProxyHeader == "forwarded"}
	o.Rates = server.Rates{User: f.UserRate, Peer: f.AddressRate, Failed: f.FailedAuthRate, Exempt: prefixes(f.RateExempt)}
}
