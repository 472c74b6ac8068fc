package auth

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"tidemark/mutlog"
)

// TokenInfo is what may be known of an API token: all but its secret.
type TokenInfo struct {
	ID      string      `json:"id"` // a ULID
	User    mutlog.User `json:"user"`
	Scopes  []string    `json:"scopes"`
	Created time.Time   `json:"created"`
	Expires time.Time   `json:"expires,omitzero"` // zero if never
	Used    time.Time   `json:"used,omitzero"`    // to the hour; zero if never
}

// The text of an API token is "tm_", its id, "_" and 256 random bits as
// base64url. Somebody who finds one can tell by its beginning what it is, as
// secret scanners do, and the id can be shown.
const (
	tokenPrefix = "tm_"
	secretBytes = 32
	tokenLength = len(tokenPrefix) + ulid.EncodedSize + 1 + 43 // bytes
)

// newToken makes the text of a token, and its id.
func newToken(now time.Time) (id, text string) {
	id = ulid.MustNew(ulid.Timestamp(now), rand.Reader).String()
	var secret [secretBytes]byte
	rand.Read(secret[:]) // never fails
	return id, tokenPrefix + id + "_" + base64.RawURLEncoding.EncodeToString(secret[:])
}

// tokenID returns the id in the text of a token. Whether there is such a token
// only its whole text can tell.
func tokenID(text string) (id string, ok bool) {
	if len(text) != tokenLength || !strings.HasPrefix(text, tokenPrefix) {
		return "", false
	}
	id = text[len(tokenPrefix) : len(tokenPrefix)+ulid.EncodedSize]
	return id, text[len(tokenPrefix)+ulid.EncodedSize] == '_' && isTokenID(id)
}

// TokenID returns the id of the token that s is the text or the id of, if it can
// be either. Whoever revokes a token may well have its text at hand, and that
// must get no further.
func TokenID(s string) (id string, ok bool) {
	if id, ok := tokenID(s); ok {
		return id, true
	}
	if isTokenID(s) {
		return s, true
	}
	return "", false
}

// isTokenID tells whether id is a ULID as newToken writes it.
func isTokenID(id string) bool {
	u, err := ulid.ParseStrict(id)
	return err == nil && u.String() == id
}

// hashOf is what the store keeps of the text of a token. The text holds 256
// random bits, so that a fast hash is as good as a slow one.
func hashOf(text string) [sha256.Size]byte { return sha256.Sum256([]byte(text)) }

// tokenRecord is a token as the store keeps it. Times are Unix milliseconds; 0
// means never.
type tokenRecord struct {
	User    mutlog.User `json:"user"`
	Scopes  []string    `json:"scopes"`
	SHA256  string      `json:"sha256"` // of the text, in hexadecimal
	Created int64       `json:"created"`
	Expires int64       `json:"expires,omitempty"`
	Used    int64       `json:"used,omitempty"`
}

func (r *tokenRecord) encode() []byte {
	value, err := json.Marshal(r)
	if err != nil {
		panic(err) // there are strings and numbers only
	}
	return value
}

func decodeToken(id string, value []byte) (r tokenRecord, hash [sha256.Size]byte, err error) {
	if err = json.Unmarshal(value, &r); err == nil {
		var n int
		if n, err = hex.Decode(hash[:], []byte(r.SHA256[:min(len(r.SHA256), 2*len(hash))])); n != len(hash) && err == nil {
			err = errors.New("the hash is too short")
		}
	}
	if err != nil {
		err = fmt.Errorf("%w: the record of the token %s: %w", mutlog.ErrCorrupt, id, err)
	}
	return r, hash, err
}

func (r *tokenRecord) info(id string) TokenInfo {
	return TokenInfo{id, r.User, r.Scopes, atMillis(r.Created), atMillis(r.Expires), atMillis(r.Used)}
}

func atMillis(ms int64) (t time.Time) {
	if ms == 0 {
		return t
	}
	return time.UnixMilli(ms).UTC()
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// TokenError says why a token cannot be made.
type TokenError struct{ Reason string }

func (e *TokenError) Error() string { return e.Reason }

var errUser = &TokenError{"a user is 1 to 255 bytes of UTF-8 without control characters"}

// check says what is wrong with a token that is to be made at now.
func (i *TokenInfo) check(now time.Time) error {
	switch {
	case !i.User.Valid():
		return errUser
	case strings.HasPrefix(string(i.User), jwtUserPrefix):
		return &TokenError{"users that begin with " + jwtUserPrefix + " are those of JWTs"}
	case len(i.Scopes) == 0:
		return &TokenError{"a token without scopes may do nothing: give it " + ScopeSync + " or " + ScopeRead}
	case len(i.Scopes) > maxScopes:
		return &TokenError{fmt.Sprintf("a token has at most %d scopes", maxScopes)}
	case !i.Expires.IsZero() && !i.Expires.After(now):
		return &TokenError{"the token would have expired already"}
	}
	for _, scope := range i.Scopes {
		if !mutlog.ValidScope(scope) {
			return &TokenError{fmt.Sprintf("%q is no scope: "+mutlog.ScopeForm, scope)}
		}
	}
	if !slices.Contains(i.Scopes, ScopeSync) && !slices.Contains(i.Scopes, ScopeRead) {
		return &TokenError{"a token needs the scope " + ScopeSync + " or " + ScopeRead + ", without which every call is refused"}
	}
	return nil
}
