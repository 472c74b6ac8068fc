package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// writeCertificate makes a certificate for localhost with a serial number, in
// cert.pem and key.pem of dir.
func writeCertificate(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: cert}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestServeTLS serves HTTPS, asks whether the server is alive and puts load on it, and replaces its certificate.
func TestServeTLS(t *testing.T) {
	dir := t.TempDir()
	writeCertificate(t, dir, 1)
	p := serve(t, dir, "--tls-cert", "cert.pem", "--tls-key", "key.pem")
	if !strings.Contains(p.stdout.String(), " on https://") {
		t.Errorf("the start line: %s", p.stdout.String())
	}
	serial := func() int64 {
		c, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	health := func(args ...string) error {
		return command(t, dir, append([]string{"health", "--addr", p.addr}, args...)...).Run()
	}
	if err := health("--tls-cert", "cert.pem"); err != nil {
		t.Errorf("health: %v", err)
	}
	if health() == nil {
		t.Error("health without TLS finds the server alive")
	}
	_, port, _ := net.SplitHostPort(p.addr)
	bench := command(t, dir, "bench", "--url", "https://localhost:"+port, "--requests", "50", "--users", "4", "--connections", "4")
	bench.Env = append(bench.Env, "SSL_CERT_FILE="+filepath.Join(dir, "cert.pem"))
	if out, err := bench.CombinedOutput(); err != nil {
		t.Errorf("bench: %v\n%s", err, out)
	}

	if err := os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Process.Signal(syscall.SIGHUP)
	waitFor(t, "word of the bad certificate", func() bool { return strings.Contains(p.stderr.String(), "stays in use") })
	if got := serial(); got != 1 {
		t.Errorf("after a bad pair certificate %d is in use", got)
	}
	writeCertificate(t, dir, 2)
	_ = p.cmd.Process.Signal(syscall.SIGHUP)
	waitFor(t, "the new certificate", func() bool { return serial() == 2 })
	if err := health("--tls-cert", "cert.pem"); err != nil {
		t.Errorf("health after the change: %v", err)
	}
	writeCertificate(t, dir, 3)
	if health("--tls-cert", "cert.pem") == nil {
		t.Error("health takes any server for the one of the certificate")
	}
	p.stop(t)

	for _, args := range [][]string{{"--tls-cert", "cert.pem"}, {"--tls-key", "key.pem"}, {"--tls-cert", "key.pem", "--tls-key", "cert.pem"}, {"--tls-cert", "none", "--tls-key", "key.pem"}} {
		cmd := command(t, dir, append([]string{"serve", "--addr", "127.0.0.1:0"}, args...)...)
		if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 64 || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%v: exit code %d\n%s", args, cmd.ProcessState.ExitCode(), out)
		}
	}
}
