package auth

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxUserBytes = 255
	maxScopes    = 64
)

// ValidUser tells whether s can be a mutlog.User: 1 to 255 bytes of UTF-8
// without control characters.
func ValidUser(s string) bool {
	return s != "" && len(s) <= maxUserBytes && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// jwtUserPrefix begins the users of JWTs and no others.
const jwtUserPrefix = "jwt:"
