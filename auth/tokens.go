package auth

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
)

// ErrNoToken: there is no API token of that id.
var ErrNoToken = errors.New("there is no such token")

// Tokens are the API tokens of a store. Each request looks its token up there,
// so that a token that was revoked is refused at once, by whatever process of
// whatever machine it was revoked.
type Tokens struct {
	// Now is the clock that tokens expire by.
	Now func() time.Time

	records Records
	logger  *slog.Logger
	closed  atomic.Bool   // once true it stays so
	closing chan struct{} // closed when closed becomes true
	nobody  *known        // whom no secret fits
	uses    chan *known   // whose use is to be noted
	change  string        // that follow has seen last

	mu     sync.Mutex
	known  map[string]*known // by id; the tokens that were used here
	forgot int               // counts what may have made a look-up out of date
}

// known is a token that was looked up.
type known struct {
	id        string
	value     []byte // of its record
	hash      [sha256.Size]byte
	principal *Principal
	done      chan struct{}
	noted     time.Time // when its last use was noted, about
}

// usedEvery is how exactly the last use of a token is known: a write for each
// request would cost more than the request.
const usedEvery = time.Hour

// newTokens returns the API tokens that records holds.
func newTokens(records Records, logger *slog.Logger) *Tokens {
	t := &Tokens{Now: time.Now, records: records, logger: logger, known: map[string]*known{},
		nobody: &known{}, uses: make(chan *known, 64), closing: make(chan struct{})}
	rand.Read(t.nobody.hash[:])
	return t
}

// Closed tells whether there is a token, or ever was one. Then nobody gets in
// without.
func (t *Tokens) Closed(ctx context.Context) (bool, error) {
	if t.closed.Load() {
		return true, nil
	}
	mark, err := t.records.Record(ctx, closedKey)
	if err == nil && mark != nil {
		t.close()
	}
	return mark != nil, err
}

// Closing is closed when nobody gets in without a token any more. What is being
// answered without one must end then.
func (t *Tokens) Closing() <-chan struct{} { return t.closing }

func (t *Tokens) close() {
	if !t.closed.Swap(true) {
		close(t.closing)
	}
}

// shut closes an open server.
func (t *Tokens) shut(ctx context.Context) error {
	err := t.records.UpdateRecord(ctx, closedKey, func([]byte) ([]byte, error) { return []byte("closed"), nil })
	if err == nil {
		t.close()
	}
	return err
}

// announce lets every process that serves the store know of a revocation.
func (t *Tokens) announce(ctx context.Context) error {
	change := []byte(ulid.Make().String())
	return t.records.UpdateRecord(ctx, changeKey, func([]byte) ([]byte, error) { return change, nil })
}

// Create makes a token of what info has as User, Scopes and Expires, and returns
// its text, which cannot be had again. Its error is a *TokenError if info is
// wrong.
func (t *Tokens) Create(ctx context.Context, info TokenInfo) (text string, made TokenInfo, err error) {
	now := t.Now()
	if err := info.check(now); err != nil {
		return "", made, err
	}
	scopes := slices.Compact(slices.Sorted(slices.Values(info.Scopes)))
	id, text := newToken(now)
	hash := hashOf(text)
	record := tokenRecord{User: info.User, Scopes: scopes, SHA256: fmt.Sprintf("%x", hash), Created: millis(now), Expires: millis(info.Expires)}
	if err := t.shut(ctx); err != nil { // first: no token must ever work on an open server
		return "", made, err
	}
	err = t.records.UpdateRecord(ctx, tokenKey(id), func([]byte) ([]byte, error) { return record.encode(), nil })
	return text, record.info(id), err
}

// List returns all tokens, the oldest first.
func (t *Tokens) List(ctx context.Context) (list []TokenInfo, err error) {
	for r, err := range t.records.Records(ctx, "token", "") {
		if err != nil {
			return nil, err
		}
		id := ownerOf(&r)
		record, _, err := decodeToken(id, r.Value)
		if err != nil {
			return nil, err
		}
		list = append(list, record.info(id))
	}
	slices.SortFunc(list, func(a, b TokenInfo) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

// Revoke removes the token. When it returns, no request with it is accepted any
// more; what other processes are still answering ends within seconds. It fails
// with ErrNoToken if there is none.
func (t *Tokens) Revoke(ctx context.Context, id string) error {
	if !isTokenID(id) {
		return ErrNoToken
	}
	missing := false
	err := t.records.UpdateRecord(ctx, tokenKey(id), func(old []byte) ([]byte, error) {
		missing = old == nil
		return nil, nil
	})
	if err != nil {
		return err
	}
	t.forget(id)
	if err := t.announce(ctx); err != nil { // of a missing one, too: an earlier try may have failed here
		return err
	}
	if missing {
		return ErrNoToken
	}
	return nil
}

// Verify returns who has the token of that text. An id that is unknown and a
// secret that is wrong are refused alike, in the same words and after the same
// work.
func (t *Tokens) Verify(ctx context.Context, text string) (*Principal, error) {
	id, ok := tokenID(text)
	if !ok {
		return nil, fmt.Errorf("%w: it is no API token", ErrInvalidToken)
	}
	k, err := t.lookUp(ctx, id)
	if err != nil {
		return nil, err
	}
	hash := hashOf(text)
	if subtle.ConstantTimeCompare(hash[:], k.hash[:]) != 1 {
		return nil, fmt.Errorf("%w: the API token %s is unknown or revoked, or has another secret", ErrInvalidToken, id)
	}
	now := t.Now()
	if p := k.principal; !p.Expires.IsZero() && !now.Before(p.Expires) {
		return nil, fmt.Errorf("%w: the API token %s has expired", ErrInvalidToken, id)
	}
	t.noteUse(k, now)
	return k.principal, nil
}

// lookUp returns the token as the store has it now, or nobody.
func (t *Tokens) lookUp(ctx context.Context, id string) (*known, error) {
	for {
		t.mu.Lock()
		forgot := t.forgot
		t.mu.Unlock()
		value, err := t.records.Record(ctx, tokenKey(id))
		if err != nil {
			return nil, err
		}
		if k, err := t.learn(id, value, forgot); k != nil || err != nil {
			return k, err
		}
	}
}

// learn takes value for what the store has of a token, unless something was
// forgotten since forgot: then it returns nil.
func (t *Tokens) learn(id string, value []byte, forgot int) (*known, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k := t.known[id]
	switch {
	case k != nil && bytes.Equal(k.value, value):
		return k, nil
	case value == nil:
		if k != nil { // or each unknown id would send other look-ups back to the store
			t.forgetLocked(id)
		}
		return t.nobody, nil
	case t.forgot != forgot:
		return nil, nil // value may be older than that
	}
	record, hash, err := decodeToken(id, value)
	if err != nil {
		return nil, err
	}
	if k == nil || k.hash != hash {
		done := make(chan struct{})
		k = &known{id: id, hash: hash, done: done, principal: &Principal{User: record.User, Scopes: record.Scopes,
			Method: Token, TokenID: id, Expires: atMillis(record.Expires), Done: done}}
		t.known[id] = k
	}
	k.value, k.noted = value, atMillis(record.Used)
	return k, nil
}

// forget ends what is still being answered with a token.
func (t *Tokens) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forgetLocked(id)
}

func (t *Tokens) forgetLocked(id string) {
	t.forgot++
	if k := t.known[id]; k != nil {
		close(k.done)
		delete(t.known, id)
	}
}

// noteUse lets Run note that the token was used now, if that is not known about.
func (t *Tokens) noteUse(k *known, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(k.noted) < usedEvery {
		return
	}
	select {
	case t.uses <- k:
		k.noted = now
	default: // the next request tries again
	}
}

// noteUses notes the last use of tokens until ctx is done.
func (t *Tokens) noteUses(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case k := <-t.uses:
			if err := t.writeUse(ctx, k.id, t.Now()); err != nil && ctx.Err() == nil {
				t.logger.Warn("the last use of a token was not noted", "token", k.id, "error", err)
			}
		}
	}
}

func (t *Tokens) writeUse(ctx context.Context, id string, now time.Time) error {
	return t.records.UpdateRecord(ctx, tokenKey(id), func(old []byte) ([]byte, error) {
		if old == nil {
			return nil, nil // revoked meanwhile
		}
		record, _, err := decodeToken(id, old)
		record.Used = millis(now)
		return record.encode(), err
	})
}

// lookAgain looks all known tokens up again, since another process may have
// revoked some.
func (t *Tokens) lookAgain(ctx context.Context) error {
	t.mu.Lock()
	t.forgot++ // a look-up under way may have read what is gone
	ids := slices.Collect(maps.Keys(t.known))
	t.mu.Unlock()
	for _, id := range ids {
		if _, err := t.lookUp(ctx, id); err != nil {
			return err
		}
	}
	return nil
}
