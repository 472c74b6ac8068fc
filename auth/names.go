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

// ValidScope tells whether s can be the name of a scope: 1 to 64 letters and
// digits of ASCII, and any of _ . : / -
func ValidScope(s string) bool {
	for _, c := range []byte(s) {
		letterOrDigit := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !letterOrDigit && strings.IndexByte("_.:/-", c) < 0 {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// jwtUserPrefix begins the users of JWTs and no others.
const jwtUserPrefix = "jwt:"
