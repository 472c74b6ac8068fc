package admin

import (
	"net/http"
	"time"

	"tidemark/auth"
	"tidemark/mutlog"
)

// NewToken is what an API token shall be.
type NewToken struct {
	User    mutlog.User `json:"user"`
	Scopes  []string    `json:"scopes"`
	Expires time.Time   `json:"expires,omitzero"` // zero for never
}

// CreatedToken is an API token with its text, which is told this once.
type CreatedToken struct {
	Token string `json:"token"`
	auth.TokenInfo
}

// TokenList is all API tokens, the oldest first.
type TokenList struct {
	Tokens []auth.TokenInfo `json:"tokens"`
}

func (h *Handler) createToken(_ http.ResponseWriter, r *http.Request) (any, error) {
	var wanted NewToken
	if err := decode(r, &wanted); err != nil {
		return nil, err
	}
	text, info, err := h.Authority.Create(r.Context(), auth.TokenInfo{User: wanted.User, Scopes: wanted.Scopes, Expires: wanted.Expires})
	return CreatedToken{text, info}, err
}

func (h *Handler) listTokens(_ http.ResponseWriter, r *http.Request) (any, error) {
	list, err := h.Authority.List(r.Context())
	return TokenList{append([]auth.TokenInfo{}, list...)}, err
}

func (h *Handler) revokeToken(_ http.ResponseWriter, r *http.Request) (any, error) {
	return struct{}{}, h.Authority.Revoke(r.Context(), r.PathValue("id"))
}

// RevokedTokens is how many API tokens of a user there were.
type RevokedTokens struct {
	Revoked int `json:"revoked"`
}

func (h *Handler) revokeTokens(_ http.ResponseWriter, r *http.Request) (any, error) {
	user, err := userOf(r)
	if err != nil {
		return nil, err
	}
	revoked, err := h.Authority.RevokeUser(r.Context(), user)
	return RevokedTokens{revoked}, err
}
