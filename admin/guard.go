package admin

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// minTokenBytes is the least length of the token of a listener: what is shorter
// could be guessed.
const minTokenBytes = 32

// ReadToken reads the token of a listener from a file that only its owner may
// read. White space around it does not count.
func ReadToken(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s can be read by others; chmod 600 it", file)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	token := string(bytes.TrimSpace(text))
	if len(token) < minTokenBytes || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%s must hold a token of at least %d printable characters", file, minTokenBytes)
	}
	return token, nil
}

// RequireToken lets requests through to next that have the token as Bearer. The
// socket needs none: there the permissions of the file say who may ask.
func RequireToken(token string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(token))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		given := r.Header["Authorization"]
		if len(given) == 1 {
			scheme, secret, _ := strings.Cut(given[0], " ")
			got := sha256.Sum256([]byte(secret))
			if subtle.ConstantTimeCompare(got[:], want[:]) == 1 && strings.EqualFold(scheme, "Bearer") {
				next.ServeHTTP(w, r)
				return
			}
		}
		h := w.Header()
		h.Set("WWW-Authenticate", "Bearer")
		h.Set("Content-Type", "application/json")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(http.StatusUnauthorized)
		json.NewEncoder(w).Encode(struct {
			Error *Error `json:"error"`
		}{&Error{Status: http.StatusUnauthorized, Message: "the token of the admin listener is required: Authorization: Bearer"}})
	})
}
