package auth

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/MicahParks/jwkset"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	gojwt "github.com/golang-jwt/jwt/v5"
)

// key verifies the signatures of one algorithm. Which that is, the key says and
// never the token.
type key struct {
	method gojwt.SigningMethod
	public any // or the secret of HS256
}

// verify fails unless the signature of t is by k.
func (k *key) verify(t *jwt) error {
	if t.header.Algorithm != k.method.Alg() {
		return fmt.Errorf("it is not signed with %s, which its key is for", k.method.Alg())
	}
	if err := k.method.Verify(t.signed, t.signature, k.public); err != nil {
		return errors.New("its signature is wrong")
	}
	return nil
}

const (
	maxKeySetBytes = 256 << 10
	maxKeys        = 100
	minRSABits     = 2048
	maxRSABits     = 8192 // larger ones take too long to verify with
	minSecretBytes = 32
)

// parseKeySet reads a JWK set: the keys in it that can verify what this server
// accepts, by their ids. Others are left out, as RFC 7517 asks; a set without
// any is an error.
func parseKeySet(text []byte) (map[string]*key, error) {
	if len(text) > maxKeySetBytes {
		return nil, fmt.Errorf("the key set is larger than %d bytes", maxKeySetBytes)
	}
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(text, &set); err != nil {
		return nil, fmt.Errorf("it is no key set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("the key set has more than %d keys", maxKeys)
	}
	keys := map[string]*key{}
	var left error
	for _, text := range set.Keys {
		id, k, err := parseKey(text)
		switch {
		case err != nil:
			left = err
		case keys[id] != nil:
			return nil, fmt.Errorf("the key set has two keys with the id %q", id)
		default:
			keys[id] = k
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("the key set has no key that can be used (%w)", left)
	}
	return keys, nil
}

func parseKey(text []byte) (id string, k *key, err error) {
	var m jwkset.JWKMarshal
	if err := stdjson.Unmarshal(text, &m); err != nil {
		return "", nil, err
	}
	switch {
	case m.KID == "":
		return "", nil, errors.New("it has no id")
	case m.USE != "" && m.USE != jwkset.UseSig:
		return "", nil, errors.New("it is not for signatures")
	case m.D != "" || m.K != "" || m.P != "":
		return "", nil, errors.New("it is a secret, which a key set must not have")
	}
	m.X5U, m.X5C, m.X5T, m.X5TS256 = "", nil, "", "" // the key itself is what counts
	parsed, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return "", nil, err
	}
	k = &key{public: parsed.Key()}
	switch public := k.public.(type) {
	case *rsa.PublicKey:
		if bits := public.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return "", nil, fmt.Errorf("it has not %d to %d bits", minRSABits, maxRSABits)
		}
		k.method = gojwt.SigningMethodRS256
	case *ecdsa.PublicKey:
		if public.Curve != elliptic.P256() {
			return "", nil, errors.New("its curve is not P-256")
		}
		k.method = gojwt.SigningMethodES256
	case ed25519.PublicKey:
		k.method = gojwt.SigningMethodEdDSA
	default:
		return "", nil, errors.New("it is of a kind that this server does not use")
	}
	if m.ALG != "" && m.ALG.String() != k.method.Alg() {
		return "", nil, fmt.Errorf("it is for %s, which this server does not use", m.ALG)
	}
	return m.KID, k, nil
}

// readSecret reads the key of an issuer that signs with HS256.
func readSecret(path string) (*key, error) {
	secret, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	secret = bytes.TrimRight(secret, "\r\n")
	if len(secret) < minSecretBytes {
		return nil, fmt.Errorf("the secret in %s has fewer than %d bytes", path, minSecretBytes)
	}
	if bytes.HasPrefix(secret, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("%s holds a key that others may know, and no secret", path)
	}
	return &key{gojwt.SigningMethodHS256, secret}, nil
}
