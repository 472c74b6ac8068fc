package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// secretPrefix is how the text of a secret begins.
const secretPrefix = "whsec_"

// Secret is what requests are signed with.
type Secret []byte

// ParseSecret reads the text of a secret: "whsec_" and 24 to 64 bytes as base64,
// as the specification has it. White space around it is passed over.
func ParseSecret(text string) (Secret, error) {
	encoded, ok := strings.CutPrefix(strings.TrimSpace(text), secretPrefix)
	secret, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil || len(secret) < 24 || len(secret) > 64 {
		return nil, fmt.Errorf("a secret is %s and 24 to 64 bytes as base64", secretPrefix)
	}
	return secret, nil
}

// sign returns the signature of a message: of its id, the time of this very try
// and the body.
func (s Secret) sign(id string, at time.Time, body []byte) string {
	mac := hmac.New(sha256.New, s)
	mac.Write([]byte(id + "." + strconv.FormatInt(at.Unix(), 10) + "."))
	mac.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}
