package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"tidemark/admin"
)

// adminFlags say where else than on the control socket operators are answered.
type adminFlags struct {
	AdminAddr      string `help:"Address to answer operators on, and whoever collects the metrics, apart from that of the devices: host:port. Loopback is best; elsewhere it needs --tls-cert." placeholder:"ADDR"`
	AdminTokenFile string `help:"File with the token that --admin-addr asks for, at least 32 characters, for its owner alone to read." placeholder:"FILE"`
}

func (c *serveCommand) validateAdmin() error {
	if (c.AdminAddr == "") != (c.AdminTokenFile == "") {
		return usageError("--admin-addr and --admin-token-file go together")
	}
	if c.AdminAddr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(c.AdminAddr)
	if err != nil {
		return usageError("--admin-addr: %w", err)
	}
	if !isLoopback(host) && c.TLSCert == "" {
		return usageError("--admin-addr %s is not a loopback address: without --tls-cert its token could be read on the way", c.AdminAddr)
	}
	return nil
}

// listenForOperators listens on --admin-addr, if there is one.
func (c *serveCommand) listenForOperators(ctx context.Context, running *sync.WaitGroup, h http.Handler, config *tls.Config, logger *slog.Logger) error {
	if c.AdminAddr == "" {
		return nil
	}
	token, err := admin.ReadToken(c.AdminTokenFile)
	if err != nil {
		return usageError("--admin-token-file: %w", err)
	}
	l, err := net.Listen("tcp", c.AdminAddr)
	if err != nil {
		return &exitError{exitAddress, err}
	}
	if config != nil {
		config = config.Clone()
		config.NextProtos = []string{"http/1.1"}
		l = tls.NewListener(l, config)
	}
	logger.Info("operators are answered", "addr", l.Addr().String())
	running.Go(func() {
		if err := admin.Serve(ctx, l, admin.RequireToken(token, h)); err != nil {
			logger.Error("operators are not answered any more", "error", err)
		}
	})
	return nil
}

// closeTimeout is how long the last traces may take to be sent.
const closeTimeout = 3 * time.Second
