package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"text/tabwriter"
	"time"

	"tidemark/admin"
	"tidemark/auth"
	"tidemark/mutlog"
)

// Run makes a token and prints it. Only the token goes to stdout, so that a
// script can catch it.
func (c *tokenCreateCommand) Run(io streams) error {
	expires, err := parseExpiry(c.Expires, time.Now())
	if err != nil {
		return err
	}
	return c.administer(true, func(ctx context.Context, a *admin.Client) error {
		made, err := a.CreateToken(ctx, admin.NewToken{User: mutlog.User(c.User), Scopes: c.Scopes, Expires: expires})
		if err != nil {
			return err
		}
		fmt.Fprintln(io.out, made.Token)
		fmt.Fprintf(io.err, "This is the only time that the token is shown. Its id is %s, it lets in as the user %s, and it %s.\n",
			made.ID, made.User, strings.Replace("expires "+date(made.Expires), "expires never", "does not expire", 1))
		return nil
	})
}

// Run prints what is known of every token.
func (c *tokenListCommand) Run(io streams) error {
	return c.administer(false, func(ctx context.Context, a *admin.Client) error {
		tokens, err := a.Tokens(ctx)
		if err != nil {
			return err
		}
		if c.JSON {
			e := json.NewEncoder(io.out)
			e.SetIndent("", "  ")
			return e.Encode(admin.TokenList{Tokens: tokens})
		}
		t := tabwriter.NewWriter(io.out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "ID\tUSER\tSCOPES\tCREATED\tEXPIRES\tLAST USED")
		for _, token := range tokens {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", token.ID, token.User, strings.Join(token.Scopes, ","),
				date(token.Created), date(token.Expires), date(token.Used))
		}
		return t.Flush()
	})
}

// Run removes a token, or those of a user.
func (c *tokenRevokeCommand) Run(io streams) error {
	if (c.ID == "") == (c.User == "") {
		return usageError("give the id of a token, or --user")
	}
	if c.User != "" {
		return c.administer(false, func(ctx context.Context, a *admin.Client) error {
			revoked, err := a.RevokeTokens(ctx, mutlog.User(c.User))
			if err == nil {
				fmt.Fprintf(io.out, "revoked %d API tokens of %s, and every JWT until now\n", revoked, c.User)
			}
			return err
		})
	}
	id, ok := auth.TokenID(c.ID)
	if !ok {
		return fmt.Errorf("%w; token list shows the ids of those that there are", auth.ErrNoToken) // what this is nobody knows, so nobody is told
	}
	return c.administer(false, func(ctx context.Context, a *admin.Client) error {
		if err := a.RevokeToken(ctx, id); err != nil {
			return fmt.Errorf("token %s: %w", id, err)
		}
		fmt.Fprintf(io.out, "revoked %s\n", id)
		return nil
	})
}

// administer does something to the store, through the server that has it if
// there is one. The store is created if it does not exist and create is set.
func (f *storeFlag) administer(create bool, do func(context.Context, *admin.Client) error) error {
	ctx, stop := untilInterrupted()
	defer stop()
	a, err := admin.Connect(ctx, f.Store, create)
	if err != nil {
		return storeError(err)
	}
	err = do(ctx, a)
	if refusal := (*admin.Error)(nil); errors.As(err, &refusal) && refusal.Status == http.StatusBadRequest {
		err = usageError("%w", err)
	}
	return errors.Join(err, a.Close())
}

// parseExpiry reads when a token ends: a date, a time, or how long from now.
func parseExpiry(s string, now time.Time) (t time.Time, err error) {
	if s == "never" {
		return t, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(d).UTC().Truncate(time.Second), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err = time.Parse(layout, s); err == nil {
			return t.UTC(), nil
		}
	}
	return t, usageError("--expires must be a duration such as 720h, a date such as 2027-01-31, a time such as 2027-01-31T18:00:00Z, or never")
}

// date shows a time to the minute.
func date(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Format("2006-01-02T15:04Z")
}
