package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"tidemark/mutlog"
)

// JWTs verifies the JWTs of the issuers that a server trusts.
type JWTs struct {
	now     func() time.Time
	issuers map[string]*trusted
	outs    *signOuts
	cache   *cache
}

// trusted is an issuer with what verifies its tokens.
type trusted struct {
	Issuer
	keys   *keySet
	secret *key // in place of keys
}

// newJWTs returns what verifies the tokens of issuers. Their keys are kept in
// records; its error is about the issuers.
func newJWTs(ctx context.Context, issuers []Issuer, outs *signOuts, records Records, now func() time.Time, logger *slog.Logger) (*JWTs, error) {
	j := &JWTs{now: now, issuers: map[string]*trusted{}, outs: outs, cache: newCache(cacheSize)}
	for _, i := range issuers {
		t, err := j.trust(ctx, i, records, logger)
		if err == nil && j.issuers[i.Issuer] != nil {
			err = errors.New("it is there twice")
		}
		if err != nil {
			return nil, fmt.Errorf("issuer %q: %w", i.Issuer, err)
		}
		j.issuers[i.Issuer] = t
	}
	return j, nil
}

func (j *JWTs) trust(ctx context.Context, i Issuer, records Records, logger *slog.Logger) (t *trusted, err error) {
	if err := i.check(); err != nil {
		return nil, err
	}
	t = &trusted{Issuer: i}
	if i.SecretFile != "" {
		t.secret, err = readSecret(i.SecretFile)
		return t, err
	}
	f := newFetcher(&i)
	t.keys = &keySet{issuer: i.Issuer, fetch: f.keySet, now: j.now, logger: logger}
	if f.isFile() { // which can be wrong for good
		text, err := f.keySet(ctx)
		if err == nil {
			err = t.keys.takeLocked(text, j.now())
		}
		return t, err
	}
	t.keys.records = records
	if err := t.keys.load(ctx); err != nil {
		logger.Warn("the keys of an issuer that were kept are of no use", "issuer", i.Issuer, "error", err)
	}
	return t, nil
}

// Verify returns who has the token. It fails with ErrInvalidToken, or with
// mutlog.ErrUnavailable while the keys of its issuer are not known.
func (j *JWTs) Verify(text string) (*Principal, error) {
	hash := sha256.Sum256([]byte(text))
	now := j.now()
	if v, ok := j.cache.get(hash); ok && v.stillCounts(now) {
		return v.principal, nil
	}
	v, err := j.verify(text, now)
	if err != nil {
		if errors.Is(err, mutlog.ErrUnavailable) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: the JWT does not count: %w", ErrInvalidToken, err)
	}
	j.cache.put(hash, v)
	return v.principal, nil
}

// version is that of the key set.
func (t *trusted) version() int {
	if t.keys == nil {
		return 0
	}
	return t.keys.current()
}

func (j *JWTs) verify(text string, now time.Time) (v verified, err error) {
	t, err := parseJWT(text)
	if err != nil {
		return v, err
	}
	issuer := j.issuers[t.claims.Issuer]
	if issuer == nil {
		return v, errors.New("it is of another issuer")
	}
	k, version, err := issuer.key(&t)
	if err != nil {
		return v, err
	}
	if err := k.verify(&t); err != nil {
		return v, err
	}
	if err := t.claims.check(&issuer.Issuer, now); err != nil {
		return v, err
	}
	if err := t.checkKind(&issuer.Issuer); err != nil {
		return v, err
	}
	p := issuer.principal(&t.claims)
	since, done := j.outs.of(p.User)
	if !t.claims.issued(&issuer.Issuer).After(since) {
		return v, errors.New("its user was signed out after it was issued")
	}
	p.Done = done
	return verified{issuer: issuer, version: version, principal: p}, nil
}

// stillCounts tells whether nothing has changed since the token was verified.
func (v *verified) stillCounts(now time.Time) bool {
	select {
	case <-v.principal.Done:
		return false
	default:
		return now.Before(v.principal.Expires) && v.version == v.issuer.version()
	}
}

// key returns the key that must have signed the token.
func (i *trusted) key(t *jwt) (*key, int, error) {
	if i.secret != nil {
		return i.secret, 0, nil
	}
	if !slices.Contains(algorithms, t.header.Algorithm) { // before anything is fetched for it
		return nil, 0, errors.New("its algorithm is not allowed")
	}
	if t.header.KeyID == nil {
		return nil, 0, errors.New("it does not say which key it is signed with")
	}
	k, version, err := i.keys.get(*t.header.KeyID)
	if err == nil && k == nil {
		err = errors.New("its key is unknown")
	}
	return k, version, err
}

// algorithms are those of the keys in key sets.
var algorithms = []string{"RS256", "ES256", "EdDSA"}

// principal is whom the claims, which count, are about.
func (i *trusted) principal(c *claims) *Principal {
	scopes := slices.Concat([]string(c.Scope), []string(c.Scopes), []string(i.Scopes))
	slices.Sort(scopes)
	return &Principal{
		User:    mutlog.User(userOf(c.Issuer, *c.Subject)),
		Scopes:  slices.Compact(scopes),
		Method:  JWT,
		TokenID: c.ID,
		Expires: seconds(*c.Expires).Add(leeway),
	}
}

// keepKeys keeps the keys fresh until ctx is done.
func (j *JWTs) keepKeys(ctx context.Context) {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		for _, i := range j.issuers {
			if i.keys != nil {
				i.keys.keep()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// keepEvery is how often keepKeys looks whether keys have become old.
const keepEvery = 5 * time.Second
