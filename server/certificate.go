package server

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Certificate is a certificate and its key in two files, which may be replaced
// while they are in use.
type Certificate struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]

	mu   sync.Mutex
	read [sha256.Size]byte // what the files held when they were last read
}

// certificateInterval is how often the files are looked at.
const certificateInterval = 10 * time.Second

// LoadCertificate reads a pair of PEM files: the certificate with those that
// vouch for it behind it, and the key. It fails if they do not belong together,
// or the certificate has expired.
func LoadCertificate(certFile, keyFile string) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile}
	_, err := c.Reload()
	return c, err
}

// Config returns how a server with the certificate speaks TLS: 1.2 or later, and
// with each connection the certificate that the files hold by then.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// Reload reads the files again if they have changed, and tells whether there is a
// new pair. One that is wrong is an error, once, and never replaces a good one.
func (c *Certificate) Reload() (changed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cert, err := os.ReadFile(c.certFile)
	if err != nil {
		return false, err
	}
	key, err := os.ReadFile(c.keyFile)
	if err != nil {
		return false, err
	}
	read := sha256.Sum256(slices.Concat(cert, []byte{0}, key))
	if read == c.read {
		return false, nil
	}
	c.read = read
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return false, fmt.Errorf("%s and %s: %w", c.certFile, c.keyFile, err)
	}
	if end := pair.Leaf.NotAfter; time.Now().After(end) {
		return false, fmt.Errorf("%s: the certificate expired on %s", c.certFile, end.Format(time.RFC1123))
	}
	c.current.Store(&pair)
	return true, nil
}

// Watch reloads the files when they have changed, and at each signal, until ctx
// is done.
func (c *Certificate) Watch(ctx context.Context, signals <-chan os.Signal, logger *slog.Logger) {
	tick := time.NewTicker(certificateInterval)
	defer tick.Stop()
	var last string // a file that stays away is told of once
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-signals:
			last = ""
		}
		changed, err := c.Reload()
		switch {
		case err != nil && err.Error() != last:
			last = err.Error()
			logger.Error("the certificate that was there stays in use", "error", err)
		case changed:
			last = ""
			logger.Info("a new certificate is in use", "until", c.current.Load().Leaf.NotAfter)
		}
	}
}
