package auth

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/mutlog/mutlogtest"
)

// newTicket makes a ticket of who.
func newTicket(t testing.TB, a *Authority, who *Principal) string {
	t.Helper()
	text, err := a.NewTicket(context.Background(), who)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// noTicket fails the test unless the ticket is refused.
func noTicket(t testing.TB, a *Authority, name, text string) {
	t.Helper()
	who, err := a.Redeem(context.Background(), text)
	if !errors.Is(err, ErrInvalidTicket) || !errors.Is(err, ErrUnauthenticated) || who != nil {
		t.Errorf("%s: it is of %+v, %v", name, who, err)
	}
}

// A ticket counts once, on any process of the store, and for a minute at most.
func TestTicketLife(t *testing.T) {
	a, log := newTestAuthority(t)
	c := newClock()
	a.Now = c.now
	other, err := NewAuthority(t.Context(), a.records, nil, a.logger)
	if err != nil {
		t.Fatal(err)
	}
	other.Now = c.now
	credential, _ := create(t, a, TokenInfo{User: "alice", Scopes: []string{ScopeRead}})
	who := accepted(t, a, "the token", credential)

	text := newTicket(t, a, who)
	c.move(TicketLife - time.Second)
	got, err := other.Redeem(t.Context(), text)
	if err != nil || got.User != "alice" || !cmp.Equal(got.Scopes, who.Scopes) || got.TokenID != who.TokenID || got.Done == nil {
		t.Errorf("the ticket is of %+v, %v", got, err)
	}
	noTicket(t, a, "the second time", text)

	text = newTicket(t, a, who)
	c.move(TicketLife)
	noTicket(t, a, "after a minute", text)
	text = newTicket(t, a, who)
	c.move(-TicketLife - time.Second) // F23
	noTicket(t, a, "after the clock was set back", text)
	for name, bad := range map[string]string{"none": "", "another": ticketPrefix + strings.Repeat("A", 43), "the token": credential, "a long one": strings.Repeat("A", 1<<20)} {
		noTicket(t, a, name, bad)
	}
	if strings.Contains(log.String(), text) {
		t.Error("the log holds a ticket")
	}
	for r, err := range a.records.Records(t.Context(), "", "") {
		if err != nil || strings.Contains(r.Owner+r.Name+string(r.Value), text[len(ticketPrefix):]) {
			t.Errorf("the store holds the text of a ticket: %v, %v", r, err)
		}
	}
}

// Of many who come with one ticket, one gets in.
func TestTicketOnce(t *testing.T) {
	a, _ := newTestAuthority(t)
	for range 20 {
		text := newTicket(t, a, &Principal{User: "alice", Method: Open})
		var in atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := a.Redeem(context.Background(), text); err == nil {
					in.Add(1)
				}
			})
		}
		wg.Wait()
		if in.Load() != 1 {
			t.Fatalf("%d came in with one ticket", in.Load())
		}
	}
}

// A ticket counts for nothing more than its credential does.
func TestTicketOfEndedCredential(t *testing.T) {
	a, _ := newTestAuthority(t)
	c := newClock()
	a.Now = c.now
	open := newTicket(t, a, &Principal{User: "alice", Method: Open})
	credential, made := create(t, a, TokenInfo{Expires: c.now().Add(10 * time.Second)})
	noTicket(t, a, "of an open server, once it is closed", open)

	who := accepted(t, a, "the token", credential)
	text := newTicket(t, a, who)
	c.move(10 * time.Second)
	noTicket(t, a, "of a token that has expired", text)
	c.move(-5 * time.Second)
	text = newTicket(t, a, who)
	if err := a.Revoke(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	noTicket(t, a, "of a token that was revoked", text)

	byJWT := &Principal{User: "jwt-user", Method: JWT, Expires: c.now().Add(time.Hour)}
	text = newTicket(t, a, byJWT)
	if got, err := a.Redeem(t.Context(), text); err != nil || got.Method != JWT || !got.Expires.Equal(byJWT.Expires.Truncate(time.Millisecond)) || got.Done == nil {
		t.Errorf("of a JWT: %+v, %v", got, err)
	}
	text = newTicket(t, a, byJWT)
	if err := a.outs.set(t.Context(), byJWT.User, c.now()); err != nil {
		t.Fatal(err)
	}
	noTicket(t, a, "of a user who was signed out", text)
}

// Tickets that nobody uses do not stay.
func TestTicketsAreSwept(t *testing.T) {
	a, _ := newTestAuthority(t)
	c := newClock()
	a.Now = c.now
	who := &Principal{User: "alice", Method: Open}
	for range 5 {
		newTicket(t, a, who)
	}
	c.move(TicketLife)
	fresh := newTicket(t, a, who)
	if err := a.removeOldTickets(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := mutlogtest.All(a.records.Records(t.Context(), "ticket", ""))
	if err != nil || len(left) != 1 {
		t.Errorf("%d tickets are left, %v; want the fresh one", len(left), err)
	}
	if _, err := a.Redeem(t.Context(), fresh); err != nil {
		t.Error(err)
	}
}
