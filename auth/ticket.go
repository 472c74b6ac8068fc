package auth

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tidemark/mutlog"
)

// TicketLife is how long a ticket counts.
const TicketLife = time.Minute

// ErrInvalidTicket: a ticket is unknown, used or too old, or what it stands for
// does not count any more. It wraps ErrInvalidToken.
var ErrInvalidTicket = fmt.Errorf("%w: the ticket does not count", ErrInvalidToken)

// A ticket stands for a credential where that cannot be sent: a browser's
// EventSource has no headers, and a token in a URL would end up in the logs of
// proxies. It is "tmt_" and 256 random bits as base64url, counts once, on any
// process of the store, and not for long. The store keeps its hash.
const ticketPrefix = "tmt_"

// ticketRecord is a ticket as the store keeps it. Times are Unix milliseconds.
type ticketRecord struct {
	User    mutlog.User `json:"user"`
	Scopes  []string    `json:"scopes,omitempty"`
	Method  Method      `json:"method"`
	TokenID string      `json:"token,omitempty"`
	Expires int64       `json:"expires,omitempty"` // the credential; 0 means never
	Made    int64       `json:"made"`
}

func ticketKey(text string) mutlog.RecordKey {
	hash := hashOf(text)
	return recordKey("ticket", hex.EncodeToString(hash[:]), "")
}

// NewTicket returns a ticket that stands for the credential of who.
func (a *Authority) NewTicket(ctx context.Context, who *Principal) (text string, err error) {
	var secret [secretBytes]byte
	rand.Read(secret[:]) // never fails
	text = ticketPrefix + base64.RawURLEncoding.EncodeToString(secret[:])
	value, err := json.Marshal(ticketRecord{who.User, who.Scopes, who.Method, who.TokenID, millis(who.Expires), a.Now().UnixMilli()})
	if err != nil {
		return "", err
	}
	return text, a.records.UpdateRecord(ctx, ticketKey(text), func([]byte) ([]byte, error) { return value, nil })
}

// Redeem returns whom the ticket stands for, which then counts no more. It fails
// with ErrInvalidTicket, or if the store does.
func (a *Authority) Redeem(ctx context.Context, text string) (*Principal, error) {
	// To look first spares a write for what is only guessed.
	value, err := a.records.Record(ctx, ticketKey(text))
	if err != nil {
		return nil, err
	}
	if value == nil {
		return nil, ErrInvalidTicket
	}
	err = a.records.UpdateRecord(ctx, ticketKey(text), func(old []byte) ([]byte, error) {
		value = old
		if old == nil {
			return nil, ErrInvalidTicket
		}
		return nil, nil
	})
	if err != nil {
		return nil, err
	}
	var t ticketRecord
	if err := json.Unmarshal(value, &t); err != nil {
		return nil, fmt.Errorf("%w: the record of a ticket: %w", mutlog.ErrCorrupt, err)
	}
	if t.isOld(a.Now()) {
		return nil, ErrInvalidTicket
	}
	return a.holder(ctx, &t)
}

// isOld tells whether the ticket, or the credential that it stands for, has
// expired. A ticket from the future is of before the clock was set back, and
// nobody knows how old it is.
func (t *ticketRecord) isOld(now time.Time) bool {
	return now.Sub(time.UnixMilli(t.Made)).Abs() >= TicketLife || t.Expires != 0 && now.UnixMilli() >= t.Expires
}

// holder returns whom a ticket stands for, if the credential still counts.
func (a *Authority) holder(ctx context.Context, t *ticketRecord) (*Principal, error) {
	who := &Principal{User: t.User, Scopes: t.Scopes, Method: t.Method, TokenID: t.TokenID, Expires: atMillis(t.Expires)}
	switch t.Method {
	case Token:
		k, err := a.lookUp(ctx, t.TokenID)
		if err != nil {
			return nil, err
		}
		if k == a.nobody {
			return nil, ErrInvalidTicket
		}
		return k.principal, nil
	case JWT:
		since, done := a.outs.of(t.User)
		if !time.UnixMilli(t.Made).After(since) {
			return nil, ErrInvalidTicket
		}
		who.Done = done
	default:
		if closed, err := a.Closed(ctx); err != nil {
			return nil, err
		} else if closed {
			return nil, ErrInvalidTicket
		}
		who.Done = a.Closing()
	}
	return who, nil
}

// sweepEvery is how often the tickets are removed that nobody has used in time.
const sweepEvery = time.Minute

// sweepTickets removes old tickets until ctx is done.
func (a *Authority) sweepTickets(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := a.removeOldTickets(ctx); err != nil && ctx.Err() == nil {
				a.logger.Warn("old tickets could not be removed", "error", err)
			}
		}
	}
}

func (a *Authority) removeOldTickets(ctx context.Context) error {
	var old []mutlog.RecordKey
	for r, err := range a.records.Records(ctx, "ticket", "") {
		if err != nil {
			return err
		}
		var t ticketRecord
		if json.Unmarshal(r.Value, &t) != nil || t.isOld(a.Now()) {
			old = append(old, r.RecordKey)
		}
	}
	var all error
	for _, key := range old {
		err := a.records.UpdateRecord(ctx, key, func([]byte) ([]byte, error) { return nil, nil })
		all = errors.Join(all, err)
	}
	return all
}
