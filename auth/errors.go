package auth

import (
	"errors"
	"fmt"
)

var (
	// ErrUnauthenticated: a request does not say who is asking.
	ErrUnauthenticated = errors.New("there is no token")

	// ErrInvalidToken: a request has a credential that is not valid. It wraps
	// ErrUnauthenticated. Errors that wrap it say why, for the log of the server
	// only: whoever asks gets the same answer to every one of them.
	ErrInvalidToken = fmt.Errorf("%w that is valid", ErrUnauthenticated)
)

// ScopeError refuses what the credential does not allow.
type ScopeError struct {
	Scope string // the one that is missing
}

func (e *ScopeError) Error() string { return "The token lacks the scope " + e.Scope }
