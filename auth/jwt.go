package auth

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"tidemark/mutlog"
)

// leeway is how far the clocks of an issuer and of this server may be apart.
const leeway = 30 * time.Second

// jwt is a JWT that parses. Nothing of it is to be believed before its signature
// was verified.
type jwt struct {
	header    header
	claims    claims
	signed    string // what the signature is of
	signature []byte
}

// header is what is looked at of a JOSE header. Members that would bring keys,
// or change how the rest is read, are known only to be refused.
type header struct {
	Algorithm string  `json:"alg"`
	KeyID     *string `json:"kid"`
	Type      string  `json:"typ"`

	Critical jsontext.Value `json:"crit"`
	Unbase64 jsontext.Value `json:"b64"`
	Zip      jsontext.Value `json:"zip"`
	KeySet   jsontext.Value `json:"jku"`
	Key      jsontext.Value `json:"jwk"`
	CertURL  jsontext.Value `json:"x5u"`
	Certs    jsontext.Value `json:"x5c"`
}

// claims is what is looked at of the claims.
type claims struct {
	Issuer    string   `json:"iss"`
	Subject   *string  `json:"sub"`
	Audience  oneOrAll `json:"aud"`
	Expires   *float64 `json:"exp"` // seconds
	NotBefore *float64 `json:"nbf"`
	Issued    *float64 `json:"iat"`
	ID        string   `json:"jti"`
	Scope     words    `json:"scope"`
	Scopes    words    `json:"scp"` // as some providers call it

	// What tells other kinds of tokens from those for an API.
	Kind     string         `json:"token_use"`
	Type     string         `json:"typ"`
	Nonce    jsontext.Value `json:"nonce"`
	AtHash   jsontext.Value `json:"at_hash"`
	CodeHash jsontext.Value `json:"c_hash"`
	Events   jsontext.Value `json:"events"`
	Confirm  jsontext.Value `json:"cnf"`
}

// oneOrAll is a string, or an array of strings.
type oneOrAll []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *oneOrAll) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*l = make([]string, 1)
		return json.Unmarshal(b, &(*l)[0])
	}
	return json.Unmarshal(b, (*[]string)(l))
}

// words are words in a string with spaces between them (and nothing else that
// looks like one: RFC 6749, section 3.3), or an array of them.
type words []string

// UnmarshalJSON implements json.Unmarshaler.
func (w *words) UnmarshalJSON(b []byte) error {
	err := (*oneOrAll)(w).UnmarshalJSON(b)
	if err == nil && len(b) > 0 && b[0] == '"' {
		*w = strings.FieldsFunc((*w)[0], func(r rune) bool { return r == ' ' })
	}
	return err
}

// parseJWT reads a JWT: strictly, since what two parsers understand differently
// is how tokens are forged. It has three parts in base64url without padding, line
// feeds and stray bits, and JSON without duplicate members.
func parseJWT(text string) (t jwt, err error) {
	head, rest, _ := strings.Cut(text, ".")
	body, signature, ok := strings.Cut(rest, ".")
	if !ok || strings.Contains(signature, ".") {
		return t, errors.New("it has not three parts")
	}
	t.signed = text[:len(head)+1+len(body)]
	if err := decodePart(head, &t.header); err != nil {
		return t, fmt.Errorf("its header: %w", err)
	}
	if err := decodePart(body, &t.claims); err != nil {
		return t, fmt.Errorf("its claims: %w", err)
	}
	if t.signature, err = decodeBase64(signature); err == nil && len(t.signature) == 0 {
		err = errors.New("there is none")
	}
	if err != nil {
		return t, fmt.Errorf("its signature: %w", err)
	}
	return t, t.header.check()
}

func decodePart(text string, to any) error {
	b, err := decodeBase64(text)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(b), "{") {
		return errors.New("it is no object")
	}
	return json.Unmarshal(b, to)
}

func decodeBase64(text string) ([]byte, error) {
	if strings.ContainsAny(text, "\r\n") { // which the decoder would skip
		return nil, errors.New("it has line feeds")
	}
	return base64.RawURLEncoding.Strict().DecodeString(text)
}

// check refuses headers that say more than this package understands.
func (h *header) check() error {
	for name, value := range map[string]jsontext.Value{"crit": h.Critical, "b64": h.Unbase64, "zip": h.Zip,
		"jku": h.KeySet, "jwk": h.Key, "x5u": h.CertURL, "x5c": h.Certs} {
		if value != nil {
			return fmt.Errorf("its header has %s", name)
		}
	}
	return nil
}

// check verifies the claims of a token of the issuer i at now. It does not look
// at the signature.
func (c *claims) check(i *Issuer, now time.Time) error {
	if c.Issuer != i.Issuer {
		return errors.New("it is of another issuer")
	}
	if !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(i.Audience, a) }) {
		return errors.New("it is for another audience")
	}
	if c.Subject == nil || !validSubject(*c.Subject) {
		return errors.New("its subject is missing, or is not 1 to 255 bytes without control characters and slashes")
	}
	return c.checkTimes(time.Duration(i.MaxLifetime), now)
}

// validSubject tells whether a subject can be a part of a user. A slash would
// make it look like a path.
func validSubject(s string) bool { return mutlog.User(s).Valid() && !strings.Contains(s, "/") }

func (c *claims) checkTimes(maxLifetime time.Duration, now time.Time) error {
	const latest = 1 << 38 // seconds: the year 10680
	for _, t := range []*float64{c.Expires, c.NotBefore, c.Issued} {
		if t != nil && !(*t >= 0 && *t < latest) {
			return errors.New("a time in it is out of range")
		}
	}
	switch {
	case c.Expires == nil:
		return errors.New("it does not say when it expires")
	case !now.Before(seconds(*c.Expires).Add(leeway)):
		return errors.New("it has expired")
	case c.NotBefore != nil && now.Add(leeway).Before(seconds(*c.NotBefore)):
		return errors.New("it is not valid yet")
	case c.Issued != nil && now.Add(leeway).Before(seconds(*c.Issued)):
		return errors.New("it was issued in the future")
	}
	issued := now
	if c.Issued != nil {
		issued = seconds(*c.Issued)
	}
	if seconds(*c.Expires).Sub(issued) > maxLifetime+leeway {
		return fmt.Errorf("it is valid for longer than %v", maxLifetime)
	}
	return nil
}

// issued is when the token was issued, or the earliest that can have been.
func (c *claims) issued(i *Issuer) time.Time {
	if c.Issued != nil {
		return seconds(*c.Issued)
	}
	return seconds(*c.Expires).Add(-time.Duration(i.MaxLifetime) - leeway)
}

func seconds(s float64) time.Time { return time.UnixMilli(int64(s * 1000)) }

// checkKind refuses tokens that were issued for something else than to call an
// API (RFC 8725, sections 3.11 and 3.12).
func (t *jwt) checkKind(i *Issuer) error {
	kind := strings.TrimPrefix(strings.ToLower(t.header.Type), "application/")
	switch {
	case i.Type != "" && kind != strings.ToLower(i.Type):
		return fmt.Errorf("its type is not %s", i.Type)
	case i.Type == "" && kind != "" && kind != "jwt" && kind != "at+jwt":
		return errors.New("its type is not one for an API")
	case t.claims.Events != nil:
		return errors.New("it tells of events")
	case t.claims.Confirm != nil:
		return errors.New("it is bound to a key that a bearer need not have")
	case t.claims.Type != "" && !slices.Contains([]string{"bearer", "jwt", "at+jwt"}, strings.ToLower(t.claims.Type)):
		return errors.New("the type in its claims is not one for an API")
	}
	isIDToken := t.claims.Nonce != nil || t.claims.AtHash != nil || t.claims.CodeHash != nil || t.claims.Kind != "" && t.claims.Kind != "access"
	if isIDToken && !i.IDTokens {
		return errors.New("it is an ID token, and this issuer's do not count")
	}
	return nil
}

// userOf is the user of the subject of an issuer. No two pairs have the same
// user, since an issuer has no space, and no API token can have it. Where that
// is too long for a user, it is hashed.
func userOf(issuer, subject string) string {
	name := issuer + " " + subject
	if len(jwtUserPrefix)+len(name) > mutlog.MaxUserBytes {
		return fmt.Sprintf("%ssha256:%x", jwtUserPrefix, sha256.Sum256([]byte(name)))
	}
	return jwtUserPrefix + name
}
