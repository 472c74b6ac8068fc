package auth

import (
	"slices"
	"time"

	"tidemark/mutlog"
)

// Method is how somebody has shown who they are.
type Method string

// The methods. The zero Method is none of them and may do nothing.
const (
	Open  Method = "open"  // not at all: the server has no authentication
	Token Method = "token" // by an API token
	JWT   Method = "jwt"   // by a JWT of an identity provider
)

// The scopes that the server itself asks for. A resource may ask for one more,
// of any name.
const (
	// ScopeSync allows every call.
	ScopeSync = "sync"
	// ScopeRead allows the calls that change nothing. Whoever has ScopeSync has
	// it, too.
	ScopeRead = "sync:read"
)

// Principal is who is asking, and what they may do. It is shared by all requests
// with the same credential and must not be changed.
type Principal struct {
	// User is whose log every request is about.
	User mutlog.User

	// Scopes are what the credential allows, see Has.
	Scopes []string

	// Method is how it was shown.
	Method Method

	// TokenID is the id of the API token, or the jti of the JWT if it has one.
	// It is no secret.
	TokenID string

	// Expires is when the credential ends; the zero Time means never. An answer
	// that lasts must end then.
	Expires time.Time

	// Done is closed when the credential is revoked or, of somebody without one,
	// when the server begins to ask for one; nil if neither can be. An answer that
	// lasts must end then.
	Done <-chan struct{}
}

// Has tells whether the principal has scope. On an open server everybody has
// every scope.
func (p *Principal) Has(scope string) bool {
	return p.Method == Open || slices.Contains(p.Scopes, scope) ||
		scope == ScopeRead && slices.Contains(p.Scopes, ScopeSync)
}
