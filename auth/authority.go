package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"tidemark/mutlog"
)

// Authority says who a credential belongs to: an API token of the store, or a
// JWT of one of the issuers that are trusted.
type Authority struct {
	*Tokens
	jwts   *JWTs // nil where no issuer is trusted
	outs   *signOuts
	logger *slog.Logger
}

// NewAuthority returns the authority over the tokens in records and the JWTs of
// issuers. Its error is about the issuers, or wraps mutlog.ErrUnavailable.
func NewAuthority(ctx context.Context, records Records, issuers []Issuer, logger *slog.Logger) (*Authority, error) {
	a := &Authority{Tokens: newTokens(records, logger), outs: newSignOuts(records), logger: logger}
	if len(issuers) == 0 {
		return a, nil
	}
	var err error
	if a.jwts, err = newJWTs(ctx, issuers, a.outs, records, func() time.Time { return a.Now() }, logger); err != nil {
		return nil, err
	}
	a.close()
	return a, a.follow(ctx)
}

// maxCredentialBytes bounds what is looked at at all.
const maxCredentialBytes = 8 << 10

// Verify returns who has the credential. It fails with ErrInvalidToken, or with
// mutlog.ErrUnavailable if that cannot be told now.
func (a *Authority) Verify(ctx context.Context, credential string) (*Principal, error) {
	switch {
	case len(credential) > maxCredentialBytes:
		return nil, fmt.Errorf("%w: it is longer than %d bytes", ErrInvalidToken, maxCredentialBytes)
	case a.jwts == nil || strings.HasPrefix(credential, tokenPrefix): // which no JWT has
		return a.Tokens.Verify(ctx, credential)
	}
	return a.jwts.Verify(credential)
}

// RevokeUser revokes all API tokens of user and returns how many there were. The
// JWTs of user that were issued until now do not count any more either; other
// processes learn of that within seconds.
func (a *Authority) RevokeUser(ctx context.Context, user mutlog.User) (revoked int, err error) {
	if !user.Valid() {
		return 0, errUser
	}
	if err := a.outs.set(ctx, user, a.Now()); err != nil {
		return 0, err
	}
	tokens, err := a.List(ctx)
	if err != nil {
		return 0, err
	}
	for _, t := range tokens {
		if t.User != user {
			continue
		}
		if err := a.Revoke(ctx, t.ID); err == nil {
			revoked++
		} else if !errors.Is(err, ErrNoToken) {
			return revoked, err
		}
	}
	return revoked, a.announce(ctx)
}

// followEvery is how long a revocation by another process takes to end what is
// being answered.
const followEvery = 2 * time.Second

// Run does what must be done in the background until ctx is done: it notes the
// use of tokens, removes old tickets, keeps the keys of issuers fresh, and ends
// what is being answered with tokens that another process has revoked, or
// without one when another process has made the first.
func (a *Authority) Run(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { a.noteUses(ctx) })
	running.Go(func() { a.sweepTickets(ctx) })
	if a.jwts != nil {
		running.Go(func() { a.jwts.keepKeys(ctx) })
	}
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := a.follow(ctx); err != nil && ctx.Err() == nil {
				a.logger.Warn("changes of tokens could not be read", "error", err)
			}
		}
	}
}

// follow takes note of what another process has changed.
func (a *Authority) follow(ctx context.Context) error {
	if _, err := a.Closed(ctx); err != nil {
		return err
	}
	change, err := a.records.Record(ctx, changeKey)
	if err != nil || string(change) == a.change {
		return err
	}
	if err := errors.Join(a.lookAgain(ctx), a.outs.load(ctx)); err != nil {
		return err
	}
	a.change = string(change)
	return nil
}
