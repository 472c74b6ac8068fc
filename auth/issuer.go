package auth

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"

	"tidemark/mutlog"
)

// Issuer is an identity provider whose JWTs count.
type Issuer struct {
	// Issuer is the iss of its tokens; if the keys are to be discovered, its URL.
	Issuer string `yaml:"issuer"`

	// Audience is what this server is called there: the aud of a token must name
	// one of these.
	Audience List `yaml:"audience"`

	// Keys is the URL of its key set, or the path of a file that holds one. If it
	// is empty, the URL is discovered as OpenID Connect has it.
	Keys string `yaml:"keys"`

	// SecretFile is the path of a file with the secret of an issuer that signs
	// with HS256, in place of Keys: at least 32 bytes.
	SecretFile string `yaml:"secretFile"`

	// Scopes are given to every token of the issuer, beside those it has.
	Scopes List `yaml:"scopes"`

	// Type is the typ that tokens must have, such as at+jwt; empty means at+jwt,
	// JWT or none.
	Type string `yaml:"type"`

	// IDTokens makes ID tokens count, which are meant for the app and not for an
	// API.
	IDTokens bool `yaml:"idTokens"`

	// MaxLifetime bounds how long a token may be valid; 0 means 24 hours.
	MaxLifetime Duration `yaml:"maxLifetime"`
}

// List is a string, or several.
type List []string

// UnmarshalYAML implements yaml.InterfaceUnmarshaler.
func (l *List) UnmarshalYAML(decode func(any) error) error {
	var one string
	if decode(&one) == nil {
		*l = List{one}
		return nil
	}
	return decode((*[]string)(l))
}

// Duration is a time.Duration that is written as 24h.
type Duration time.Duration

// UnmarshalYAML implements yaml.InterfaceUnmarshaler.
func (d *Duration) UnmarshalYAML(decode func(any) error) error {
	return decode((*time.Duration)(d))
}

// ReadIssuers reads a file of issuers. Paths in it are relative to the file.
func ReadIssuers(path string) ([]Issuer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var file struct {
		Issuers []Issuer `yaml:"issuers"`
	}
	if err := yaml.NewDecoder(f, yaml.Strict()).Decode(&file); err != nil && err != io.EOF {
		return nil, fmt.Errorf("%s: %s", path, yaml.FormatError(err, false, false))
	}
	if len(file.Issuers) == 0 {
		return nil, fmt.Errorf("%s: there are no issuers in it", path)
	}
	for i := range file.Issuers {
		issuer := &file.Issuers[i]
		for _, name := range []*string{&issuer.Keys, &issuer.SecretFile} {
			if *name != "" && !strings.Contains(*name, "://") && !filepath.IsAbs(*name) {
				*name = filepath.Join(filepath.Dir(path), *name)
			}
		}
	}
	return file.Issuers, nil
}

const defaultLifetime = 24 * time.Hour

// check says what is wrong with an issuer, and fills in what is left out.
func (i *Issuer) check() error {
	switch {
	case i.Issuer == "" || len(i.Issuer) > 512 || strings.ContainsFunc(i.Issuer, notInIssuer):
		return errors.New("an issuer is 1 to 512 printable characters without spaces")
	case len(i.Audience) == 0:
		return errors.New("there is no audience: without one, tokens that were issued for other services would count")
	case slices.Contains(i.Audience, ""):
		return errors.New("an audience is empty")
	case i.Keys != "" && i.SecretFile != "":
		return errors.New("it has keys and a secret")
	case i.MaxLifetime < 0:
		return errors.New("the longest lifetime is negative")
	}
	for _, scope := range i.Scopes {
		if !mutlog.ValidScope(scope) {
			return fmt.Errorf("%q is no scope: "+mutlog.ScopeForm, scope)
		}
	}
	if i.MaxLifetime == 0 {
		i.MaxLifetime = Duration(defaultLifetime)
	}
	source := i.Keys
	if source == "" {
		source = i.Issuer
	}
	if i.SecretFile != "" || i.Keys != "" && !strings.Contains(i.Keys, "://") {
		return nil
	}
	_, err := keysURL(source)
	return err
}

func notInIssuer(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }

// keysURL parses a URL that keys may come from: https, or http from this very
// machine.
func keysURL(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("%q is no URL to get keys from", s)
	}
	ip, err := netip.ParseAddr(u.Hostname())
	loopback := u.Hostname() == "localhost" || err == nil && ip.IsLoopback()
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback) {
		return nil, fmt.Errorf("keys must not come from %q: only by https, or by http from the loopback interface", s)
	}
	return u, nil
}
