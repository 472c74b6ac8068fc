package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"

	"tidemark/auth"
	"tidemark/mutlog"
	"tidemark/store"
)

// authority returns who says who is asking, and begins its work. An open server
// may listen on the loopback interface only.
func (c *serveCommand) authority(ctx context.Context, s store.Store, work *background, logger *slog.Logger) (*auth.Authority, error) {
	issuers, err := c.issuers()
	if err != nil {
		return nil, err
	}
	a, err := auth.NewAuthority(ctx, s, issuers, logger)
	switch {
	case errors.Is(err, mutlog.ErrUnavailable), errors.Is(err, mutlog.ErrCorrupt):
		return nil, err
	case err != nil:
		return nil, usageError("%w", err)
	}
	closed, err := a.Closed(ctx)
	if err != nil {
		return nil, err
	}
	if host, _, _ := net.SplitHostPort(c.Addr); !closed && !c.InsecureOpen && !isLoopback(host) {
		return nil, usageError("--addr %s is not a loopback address, and there is no authentication: whoever reaches the server "+
			"could read and write everything; tidemark token create makes a token, from which on everybody needs one; "+
			"--insecure-open serves without", c.Addr)
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	work.until(func() { cancel(); running.Wait() })
	return a, nil
}

// issuers returns the identity providers of the flags.
func (f *jwtFlags) issuers() (list []auth.Issuer, err error) {
	if f.JWTIssuers != "" {
		if list, err = auth.ReadIssuers(f.JWTIssuers); err != nil {
			return nil, usageError("--jwt-issuers: %w", err)
		}
	}
	if f.JWTIssuer == "" {
		if f.JWTAudience != nil || f.JWTKeys != "" || f.JWTSecretFile != "" || f.JWTScopes != nil {
			return nil, usageError("--jwt-issuer must name the issuer that the other --jwt flags are about")
		}
		return list, nil
	}
	return append(list, auth.Issuer{Issuer: f.JWTIssuer, Audience: f.JWTAudience, Keys: f.JWTKeys,
		SecretFile: f.JWTSecretFile, Scopes: f.JWTScopes}), nil
}

// greet says where the server is, who gets in, and how to try it.
func (c *serveCommand) greet(ctx context.Context, io streams, addr net.Addr, a *auth.Authority) {
	fmt.Fprintf(io.out, "tidemark serves %s on %s://%s\n", store.Name(c.Store), c.scheme(), addr)
	if closed, err := a.Closed(ctx); closed || err != nil {
		fmt.Fprintln(io.out, "Everybody needs a token; tidemark token create makes one.")
		fmt.Fprintf(io.out, "Try it: curl -H 'Authorization: Bearer TOKEN' '%s://%s/v1/sync?mutationsSince=0'\n", c.scheme(), addr)
		return
	}
	if host, _, _ := net.SplitHostPort(addr.String()); isLoopback(host) {
		fmt.Fprintln(io.out, "There is no authentication: every program on this machine can read and write everything.")
	} else {
		fmt.Fprintln(io.out, "WARNING: there is no authentication: whoever reaches this address can read and write everything.")
	}
	fmt.Fprintf(io.out, "Try it: curl '%s://%s/v1/sync?mutationsSince=0'\n", c.scheme(), addr)
}
