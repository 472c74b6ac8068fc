package auth

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/mutlog"
	"tidemark/store"
	"tidemark/store/storetest"
)

func create(t testing.TB, a *Authority, info TokenInfo) (string, TokenInfo) {
	t.Helper()
	if info.User == "" {
		info.User = "alice"
	}
	if info.Scopes == nil {
		info.Scopes = []string{ScopeSync}
	}
	text, made, err := a.Create(context.Background(), info)
	if err != nil {
		t.Fatal(err)
	}
	return text, made
}

// A token counts from the moment it is made until it expires or is revoked, and
// not longer, and the server that was open is closed for good.
func TestTokenLife(t *testing.T) {
	a, _ := newTestAuthority(t)
	c := newClock()
	a.Now = c.now
	if closed, err := a.Closed(t.Context()); closed || err != nil {
		t.Fatalf("before there is a token: closed %v, %v", closed, err)
	}
	expires := c.now().Add(time.Hour).UTC().Truncate(time.Millisecond)
	text, made := create(t, a, TokenInfo{Scopes: []string{"sync", "notes", "sync"}, Expires: expires})
	if closed, err := a.Closed(t.Context()); !closed || err != nil {
		t.Fatalf("after the first token: closed %v, %v", closed, err)
	}
	p := accepted(t, a, "a new token", text)
	if p.User != "alice" || p.Method != Token || p.TokenID != made.ID || !p.Expires.Equal(expires) || !cmp.Equal(p.Scopes, []string{"notes", "sync"}) {
		t.Errorf("it is about %+v", p)
	}
	for scope, want := range map[string]bool{"sync": true, "sync:read": true, "notes": true, "other": false, "": false} {
		if p.Has(scope) != want {
			t.Errorf("Has(%q) is %v", scope, !want)
		}
	}
	if again := accepted(t, a, "the same", text); again != p {
		t.Error("a second request with the token is about another principal")
	}

	c.move(time.Hour - time.Second)
	accepted(t, a, "a second before its end", text)
	c.move(time.Second)
	refused(t, a, "at its end", text)
	c.move(-time.Minute)
	accepted(t, a, "with the clock back", text)

	if err := a.Revoke(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, a, "a revoked token", text)
	select {
	case <-p.Done:
	default:
		t.Error("an answer that lasts is not told of the revocation")
	}
	if err := a.Revoke(t.Context(), made.ID); !errors.Is(err, ErrNoToken) {
		t.Errorf("revoking it twice: %v", err)
	}
	if closed, _ := a.Closed(t.Context()); !closed {
		t.Error("the server is open again without its last token")
	}
}

// A token that reads may not write.
func TestReadToken(t *testing.T) {
	a, _ := newTestAuthority(t)
	text, _ := create(t, a, TokenInfo{Scopes: []string{ScopeRead}})
	if p := accepted(t, a, "a token that reads", text); p.Has(ScopeSync) || !p.Has(ScopeRead) {
		t.Errorf("sync %v, sync:read %v", p.Has(ScopeSync), p.Has(ScopeRead))
	}
	if (&Principal{}).Has(ScopeRead) || !(&Principal{Method: Open}).Has("anything") {
		t.Error("nobody may read, or an open server does not let everybody")
	}
}

// The store outlives the process: tokens count in the next one, and the server
// stays closed.
func TestTokensAreKept(t *testing.T) {
	url := storetest.URL(t)
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	s := openAt(t, url)
	a, err := NewAuthority(t.Context(), s, nil, logger)
	if err != nil {
		t.Fatal(err)
	}
	kept, _ := create(t, a, TokenInfo{})
	gone, info := create(t, a, TokenInfo{User: "bob"})
	if err := a.Revoke(t.Context(), info.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if a, err = NewAuthority(t.Context(), openAt(t, url), nil, logger); err != nil {
		t.Fatal(err)
	}
	if closed, err := a.Closed(t.Context()); !closed || err != nil {
		t.Errorf("after a restart: closed %v, %v", closed, err)
	}
	accepted(t, a, "a token of the run before", kept)
	refused(t, a, "one that was revoked in the run before", gone)
}

// What one process revokes, another one on the same store refuses with the next
// request, and ends what it is still answering.
func TestRevokedElsewhere(t *testing.T) {
	s := openStore(t)
	var nodes [2]*Authority
	for i := range nodes {
		var err error
		if nodes[i], err = NewAuthority(t.Context(), s, nil, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
	}
	if closed, _ := nodes[1].Closed(t.Context()); closed {
		t.Fatal("closed without a token")
	}
	first, one := create(t, nodes[0], TokenInfo{})
	second, two := create(t, nodes[0], TokenInfo{})
	if closed, _ := nodes[1].Closed(t.Context()); !closed {
		t.Fatal("the first token has not closed the other server")
	}
	p1, p2 := accepted(t, nodes[1], "first", first), accepted(t, nodes[1], "second", second)
	if err := nodes[0].Revoke(t.Context(), one.ID); err != nil {
		t.Fatal(err)
	}
	refused(t, nodes[1], "revoked elsewhere", first)
	<-p1.Done
	if err := nodes[0].Revoke(t.Context(), two.ID); err != nil {
		t.Fatal(err)
	}
	go nodes[1].Run(t.Context()) // nobody asks with it any more
	select {
	case <-p2.Done:
	case <-time.After(20 * time.Second):
		t.Error("an answer that lasts is not told of a revocation elsewhere")
	}
}

// None of 10,000 tokens that are nearly right is accepted, and all are refused
// in the same words.
func TestMutatedTokens(t *testing.T) {
	p := newProvider(t)
	a, _ := newTestAuthority(t, p.issuer())
	api, _ := create(t, a, TokenInfo{})
	other, _ := create(t, a, TokenInfo{})
	now := time.Now()
	good := []string{api,
		sign(t, methods["RS256"], rsaKey, map[string]any{"kid": "rsa"}, claimsOf(p.URL, now, nil)),
		sign(t, methods["ES256"], ecKey, map[string]any{"kid": "ec"}, claimsOf(p.URL, now, nil)),
		sign(t, methods["EdDSA"], edKey, map[string]any{"kid": "ed"}, claimsOf(p.URL, now, nil))}
	eventually(t, "the keys", func() bool { _, err := a.Verify(t.Context(), good[1]); return err == nil })
	for i, text := range good {
		accepted(t, a, "unchanged", text)
		r := rand.New(rand.NewPCG(1, uint64(i)))
		for n := 0; n < 2500; {
			mutated := mutate(r, text, other)
			if mutated == text || mutated == other {
				continue
			}
			n++
			if got, err := a.Verify(t.Context(), mutated); got != nil || !errors.Is(err, ErrInvalidToken) {
				t.Fatalf("mutation %d of\n%s is accepted, or not refused as others are: %+v, %v\n%s", n, text, got, err, mutated)
			}
		}
	}
}

// mutate changes a token a little.
func mutate(r *rand.Rand, text, other string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\x00é"
	b := []byte(text)
	at := r.IntN(len(b))
	switch r.IntN(8) {
	case 0: // another character, the last one as often as all others: it has stray bits
		if r.IntN(2) == 0 {
			at = len(b) - 1
		}
		b[at] = alphabet[r.IntN(len(alphabet))]
	case 1:
		b = append(b[:at], b[at+1:]...)
	case 2:
		b = append(b[:at], append([]byte{alphabet[r.IntN(len(alphabet))]}, b[at:]...)...)
	case 3:
		return text[:at]
	case 4:
		return text[at:]
	case 5:
		b[at] ^= 1 << r.IntN(8)
	case 6: // the beginning of one token and the end of another
		n := min(at, len(other))
		return text[:n] + other[n:]
	case 7:
		other := r.IntN(len(b))
		b[at], b[other] = b[other], b[at]
	}
	return string(b)
}

// A wrong secret and an unknown id are told apart by nothing but the id in the
// log of the server.
func TestSameRefusal(t *testing.T) {
	a, _ := newTestAuthority(t)
	text, made := create(t, a, TokenInfo{})
	unknown, _ := newToken(time.Now())
	wrong := text[:len(text)-4] + "AAAA"
	missing := strings.Replace(wrong, made.ID, unknown, 1)
	var said []string
	for _, token := range []string{wrong, missing} {
		_, err := a.Verify(t.Context(), token)
		if !errors.Is(err, ErrInvalidToken) {
			t.Fatalf("%s: %v", token, err)
		}
		id, _ := tokenID(token)
		said = append(said, strings.ReplaceAll(err.Error(), id, "ID"))
	}
	if said[0] != said[1] {
		t.Errorf("a wrong secret: %s\nan unknown id: %s", said[0], said[1])
	}
}

// The id of a token can be had of its whole text, and of nothing that is nearly
// one.
func TestTokenID(t *testing.T) {
	id, text := newToken(time.Now())
	for s, want := range map[string]string{
		id: id, text: id,
		"": "", "x": "", text + "x": "", text[:len(text)-1]: "", text[3:]: "", "tm_" + id: "", strings.ToLower(id): "", id[:25]: "", strings.Replace(text, "_", "-", 2): "",
	} {
		if got, ok := TokenID(s); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v, want %q", s, got, ok, want)
		}
	}
}

// Neither the store nor the log holds the secret of a token, in any form.
func TestNoSecretIsKept(t *testing.T) {
	if storetest.Kind() != "bolt" {
		t.Skip("it reads the file of the store")
	}
	dir := t.TempDir()
	log := &logText{}
	s := openAt(t, filepath.Join(dir, "test.db"))
	a, err := NewAuthority(t.Context(), s, nil, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	text, made := create(t, a, TokenInfo{})
	accepted(t, a, "the token", text)
	refused(t, a, "another", text+"x")
	list, err := a.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != made.ID {
		t.Fatalf("%v, %v", list, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	secret := []byte(text[len(text)-43:])
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	dump := []byte(log.String())
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dump = append(dump, b...)
	}
	raw, err := decodeBase64(string(secret))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(dump, []byte(made.ID)) {
		t.Error("the dump does not hold the id, so it proves nothing")
	}
	for _, form := range [][]byte{secret, secret[:20], raw, raw[:12]} {
		if bytes.Contains(dump, form) {
			t.Errorf("the dump holds %q", form)
		}
	}
}

// The last use is noted, about once an hour, and without bringing back a token
// that was revoked meanwhile.
func TestLastUse(t *testing.T) {
	a, _ := newTestAuthority(t)
	c := newClock()
	a.Now = c.now
	text, made := create(t, a, TokenInfo{})
	used := func() time.Time {
		list, err := a.List(t.Context())
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		return list[0].Used
	}
	if !used().IsZero() {
		t.Fatal("a new token was used")
	}
	p := accepted(t, a, "a new token", text)
	accepted(t, a, "at once again", text)
	c.move(59 * time.Minute)
	accepted(t, a, "before the hour", text)
	if n := len(a.uses); n != 1 {
		t.Errorf("%d uses to be noted within the hour", n)
	}
	c.move(-59 * time.Minute)
	go a.Run(t.Context())
	eventually(t, "the first use", func() bool { return used().Equal(c.now().UTC().Truncate(time.Millisecond)) })
	first := used()
	c.move(61 * time.Minute)
	if again := accepted(t, a, "after the hour", text); again != p {
		t.Error("noting the use has made another principal")
	}
	eventually(t, "the second use", func() bool { return used().After(first) })
	if got := used().Sub(first); got != 61*time.Minute {
		t.Errorf("%v later", got)
	}
	if err := a.Revoke(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	if err := a.writeUse(t.Context(), made.ID, c.now()); err != nil {
		t.Fatal(err)
	}
	if list, err := a.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("the use has brought back %v, %v", list, err)
	}
}

// What cannot be a token is refused with the reason.
func TestTokenErrors(t *testing.T) {
	a, _ := newTestAuthority(t)
	good := TokenInfo{User: "alice", Scopes: []string{"sync"}}
	for want, change := range map[string]func(*TokenInfo){
		"a user is":            func(i *TokenInfo) { i.User = "" },
		"a user is 1":          func(i *TokenInfo) { i.User = mutlog.User(strings.Repeat("a", 256)) },
		"a user is 1 to":       func(i *TokenInfo) { i.User = "a\nb" },
		"a user is 1 to 255":   func(i *TokenInfo) { i.User = "\xff" },
		"those of JWTs":        func(i *TokenInfo) { i.User = "jwt:https://a b" },
		"without scopes":       func(i *TokenInfo) { i.Scopes = nil },
		"is no scope":          func(i *TokenInfo) { i.Scopes = []string{"sync", "a b"} },
		`"a,b" is no scope`:    func(i *TokenInfo) { i.Scopes = []string{"sync", "a,b"} },
		`"" is no scope`:       func(i *TokenInfo) { i.Scopes = []string{"sync", ""} },
		"needs the scope":      func(i *TokenInfo) { i.Scopes = []string{"notes"} },
		"at most":              func(i *TokenInfo) { i.Scopes = make([]string, 65) },
		"have expired already": func(i *TokenInfo) { i.Expires = time.Now().Add(-time.Second) },
	} {
		info := good
		change(&info)
		_, _, err := a.Create(t.Context(), info)
		var invalid *TokenError
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", info, err, want)
		}
	}
	if closed, _ := a.Closed(t.Context()); closed {
		t.Error("a token that was not made has closed the server")
	}
	unknown, _ := newToken(time.Now())
	if err := a.Revoke(t.Context(), unknown); !errors.Is(err, ErrNoToken) {
		t.Errorf("revoking an unknown token: %v", err)
	}
	if n, err := a.RevokeUser(t.Context(), "alice"); n != 0 || err != nil {
		t.Errorf("revoking no tokens: %d, %v", n, err)
	}
	if closed, _ := a.Closed(t.Context()); closed {
		t.Error("a revocation of nothing has closed the server")
	}
	for _, id := range []string{"", "x", "../../x", strings.Repeat("0", 26) + "\x00"} {
		if err := a.Revoke(t.Context(), id); !errors.Is(err, ErrNoToken) {
			t.Errorf("revoking %q: %v", id, err)
		}
	}
}

// Somebody who tries ids that do not exist, without a pause, does not keep a good
// token from being looked up.
func TestUnknownIDsHoldNobodyUp(t *testing.T) {
	records := &beforeRecord{Store: openStore(t)}
	a, err := NewAuthority(t.Context(), records, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	text, made := create(t, a, TokenInfo{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	records.do = func(key mutlog.RecordKey) error {
		if key == tokenKey(made.ID) {
			_, unknown := newToken(a.Now())
			refused(t, a, "an unknown id", unknown)
		}
		return ctx.Err()
	}
	if _, err := a.Verify(ctx, text); err != nil {
		t.Errorf("a good token meanwhile: %v", err)
	}
}

// beforeRecord does something before each look at a record.
type beforeRecord struct {
	store.Store
	do func(mutlog.RecordKey) error
}

func (r *beforeRecord) Record(ctx context.Context, key mutlog.RecordKey) ([]byte, error) {
	if r.do != nil {
		if err := r.do(key); err != nil {
			return nil, err
		}
	}
	return r.Store.Record(ctx, key)
}

// To erase a user removes no record of this package, whatever the user is called.
func TestErasureLeavesTokens(t *testing.T) {
	s := openStore(t)
	a, err := NewAuthority(t.Context(), s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	text, made := create(t, a, TokenInfo{})
	for r, err := range s.Records(t.Context(), "", "") {
		if err != nil {
			t.Fatal(err)
		}
		if mutlog.User(r.Owner).Valid() {
			t.Errorf("the owner of %q may be a user", r.RecordKey)
		}
	}
	for _, user := range []mutlog.User{"all", mutlog.User(made.ID)} {
		if err := s.Erase(t.Context(), user, mutlog.Timestamp(time.Now().UnixMilli()), func(int) {}); err != nil {
			t.Fatal(err)
		}
	}
	later, err := NewAuthority(t.Context(), s, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if closed, err := later.Closed(t.Context()); !closed || err != nil {
		t.Errorf("the server is open again: %v", err)
	}
	accepted(t, later, "a token that is called as an erased user", text)
}

// What is answered without a token is told when there must be one, in the process
// that makes the first and in any other.
func TestClosingIsTold(t *testing.T) {
	s := openStore(t)
	logger := slog.New(slog.DiscardHandler)
	here, err := NewAuthority(t.Context(), s, nil, logger)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := NewAuthority(t.Context(), s, nil, logger)
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := here.NewTicket(t.Context(), &Principal{User: "anna", Method: Open})
	if err != nil {
		t.Fatal(err)
	}
	holder, err := here.Redeem(t.Context(), ticket)
	if err != nil {
		t.Fatal(err)
	}
	for name, told := range map[string]<-chan struct{}{"here": here.Closing(), "elsewhere": elsewhere.Closing(), "of a ticket": holder.Done} {
		select {
		case <-told:
			t.Errorf("%s: told before there is a token", name)
		default:
		}
	}
	create(t, here, TokenInfo{})
	if err := elsewhere.follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, told := range map[string]<-chan struct{}{"here": here.Closing(), "elsewhere": elsewhere.Closing(), "of a ticket": holder.Done} {
		select {
		case <-told:
		default:
			t.Errorf("%s: not told of the first token", name)
		}
	}
}
