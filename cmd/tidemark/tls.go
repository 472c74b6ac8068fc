package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"tidemark/server"
)

// tlsFlags name the certificate of a server.
type tlsFlags struct {
	TLSCert string `name:"tls-cert" help:"File of the server's certificate, PEM, with those that vouch for it behind it: then it speaks HTTPS." placeholder:"FILE"`
	TLSKey  string `name:"tls-key" help:"File of the key of the certificate, PEM." placeholder:"FILE"`
}

func (f *tlsFlags) validate() error {
	if (f.TLSCert == "") != (f.TLSKey == "") {
		return usageError("--tls-cert and --tls-key go together")
	}
	return nil
}

// scheme is that of the server's address.
func (f *tlsFlags) scheme() string {
	if f.TLSCert == "" {
		return "http"
	}
	return "https"
}

// config loads the certificate, if there is one, and watches its files, and for
// SIGHUP, until ctx is done.
func (f *tlsFlags) config(ctx context.Context, logger *slog.Logger) (*tls.Config, error) {
	if f.TLSCert == "" {
		return nil, nil
	}
	certificate, err := server.LoadCertificate(f.TLSCert, f.TLSKey)
	if err != nil {
		return nil, usageError("--tls-cert: %w", err)
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangups)
		certificate.Watch(ctx, hangups, logger)
	}()
	return certificate.Config(), nil
}

// trusting returns how a client speaks to the server whose certificate is in a
// file, under whatever name it was reached.
func trusting(certFile string) (*tls.Config, error) {
	text, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, errors.New(certFile + " has no certificate")
	}
	return &tls.Config{
		InsecureSkipVerify: true, // the name, which VerifyConnection leaves out
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, cert := range s.PeerCertificates[1:] {
				between.AddCert(cert)
			}
			_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between})
			return err
		},
	}, nil
}
