package auth

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A file of issuers is read strictly; its paths are relative to it.
func TestReadIssuers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "issuers.yaml")
	read := func(text string) ([]Issuer, error) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return ReadIssuers(path)
	}
	got, err := read(`
issuers:
  - issuer: https://id.example.com/realms/app
    audience: tidemark
  - issuer: https://two.example.com
    audience: [a, b]
    keys: https://two.example.com/jwks
    scopes: [sync, notes]
    type: at+jwt
    idTokens: true
    maxLifetime: 1h
  - issuer: ours
    audience: tidemark
    secretFile: secret
  - issuer: theirs
    audience: tidemark
    keys: keys.json
`)
	want := []Issuer{
		{Issuer: "https://id.example.com/realms/app", Audience: List{"tidemark"}},
		{Issuer: "https://two.example.com", Audience: List{"a", "b"}, Keys: "https://two.example.com/jwks", Scopes: List{"sync", "notes"},
			Type: "at+jwt", IDTokens: true, MaxLifetime: Duration(time.Hour)},
		{Issuer: "ours", Audience: List{"tidemark"}, SecretFile: filepath.Join(dir, "secret")},
		{Issuer: "theirs", Audience: List{"tidemark"}, Keys: filepath.Join(dir, "keys.json")},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	for text, want := range map[string]string{
		"":                                       "no issuers",
		"issuers: []":                            "no issuers",
		"issuers:\n  - isuer: x":                 "isuer",
		"issuers:\n  - issuer: x\n    issuer: y": "already defined",
		"issuers:\n  - maxLifetime: long":        "invalid duration",
		"issuers: {":                             "yaml",
	} {
		if got, err := read(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%q: %v, %v, want %q", text, got, err, want)
		}
	}
	if _, err := ReadIssuers(filepath.Join(dir, "missing")); err == nil {
		t.Error("a file that is not there is read")
	}
}

// An issuer that would let anybody in, or nobody, is refused at the start.
func TestIssuerErrors(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := Issuer{Issuer: testIssuer, Audience: List{"tidemark"}}
	for name, c := range map[string]struct {
		change func(*Issuer)
		want   string
	}{
		"no issuer":         {func(i *Issuer) { i.Issuer = "" }, "an issuer is"},
		"an issuer, spaced": {func(i *Issuer) { i.Issuer = "a b" }, "an issuer is"},
		"no audience":       {func(i *Issuer) { i.Audience = nil }, "no audience"},
		"an empty audience": {func(i *Issuer) { i.Audience = List{""} }, "audience is empty"},
		"one that is empty": {func(i *Issuer) { i.Audience = List{"tidemark", ""} }, "audience is empty"},
		"no encryption":     {func(i *Issuer) { i.Issuer = "http://id.example.com" }, "only by https"},
		"keys, unencrypted": {func(i *Issuer) { i.Keys = "http://id.example.com/keys" }, "only by https"},
		"keys by ftp":       {func(i *Issuer) { i.Keys = "ftp://id.example.com/keys" }, "only by https"},
		"no URL":            {func(i *Issuer) { i.Issuer = "app" }, "no URL"},
		"a URL with a user": {func(i *Issuer) { i.Keys = "https://u:p@id.example.com/" }, "no URL"},
		"keys and a secret": {func(i *Issuer) { i.Keys, i.SecretFile = "https://id.example.com", "x" }, "keys and a secret"},
		"a wrong scope":     {func(i *Issuer) { i.Scopes = List{"a b"} }, "no scope"},
		"negative lifetime": {func(i *Issuer) { i.MaxLifetime = -1 }, "negative"},
		"no such file":      {func(i *Issuer) { i.Keys = filepath.Join(dir, "missing") }, "no such file"},
		"a file of no keys": {func(i *Issuer) { i.Keys = file("empty", "{}") }, "no key that can be used"},
		"no such secret":    {func(i *Issuer) { i.SecretFile = filepath.Join(dir, "missing") }, "no such file"},
		"a short secret":    {func(i *Issuer) { i.SecretFile = file("short", strings.Repeat("s", 31)+"\n") }, "fewer than 32 bytes"},
		"a public key": {func(i *Issuer) {
			i.SecretFile = file("public", "-----BEGIN PUBLIC KEY-----\n"+strings.Repeat("A", 100))
		}, "no secret"},
	} {
		i := good
		c.change(&i)
		_, err := NewAuthority(t.Context(), openStore(t), []Issuer{i}, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := NewAuthority(t.Context(), openStore(t), []Issuer{good, good}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("one issuer twice is accepted")
	}
}
