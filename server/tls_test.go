package server_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"tidemark/auth"
	"tidemark/client"
	"tidemark/mutlog"
	"tidemark/server"
)

// waiting is an authentication that takes until leave is closed.
func waiting(entered chan<- bool, leave <-chan bool) func(*http.Request) (*auth.Principal, error) {
	return func(r *http.Request) (*auth.Principal, error) {
		entered <- true
		<-leave
		return server.OpenUser(r)
	}
}

// pair is a certificate in files.
type pair struct{ cert, key string }

// write makes a new certificate, and puts it into the files of p.
func (p pair) write(t testing.TB, name string, until time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until,
		DNSNames: []string{name, "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{p.cert: {Type: "CERTIFICATE", Bytes: cert}, p.key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func newPair(t testing.TB, name string) pair {
	dir := t.TempDir()
	p := pair{filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	p.write(t, name, time.Now().Add(time.Hour))
	return p
}

// newTLSRig starts a server that speaks TLS under the name notes.example. Its
// client speaks HTTP/1.1 or 2.
func newTLSRig(t testing.TB, version int, change ...func(*server.Options)) *rig {
	t.Helper()
	p := newPair(t, "notes.example")
	certificate, err := server.LoadCertificate(p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, append(change, func(o *server.Options) {
		o.TLS = certificate.Config()
		o.AllowedHosts = []string{"notes.example"}
	})...)
	roots := x509.NewCertPool()
	text, _ := os.ReadFile(p.cert)
	roots.AppendCertsFromPEM(text)
	connections := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: "notes.example"},
		ForceAttemptHTTP2: version == 2,
		Protocols:         new(http.Protocols),
	}
	connections.Protocols.SetHTTP1(version == 1)
	connections.Protocols.SetHTTP2(version == 2)
	t.Cleanup(connections.CloseIdleConnections)
	r.url = strings.Replace(r.url, "http:", "https:", 1)
	r.http.Transport = transport(t, connections)
	return r
}

// Everything is the same over TLS, with HTTP/1.1 and 2.
func TestTLS(t *testing.T) {
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprint("HTTP/", version), func(t *testing.T) {
			r := newTLSRig(t, version, func(o *server.Options) { o.MaxBodyBytes = 100_000 })
			got := r.get("mutationsSince=0")
			if got.ProtoMajor != version || got.TLS == nil || got.TLS.Version != tls.VersionTLS13 {
				t.Fatalf("the answer came over %s, %v", got.Proto, got.TLS)
			}
			c := r.client("jane")
			head := mustPush(t, c, mutlog.Beginning, create("a", `{"n":1}`))
			if changes, _ := mustPull(t, c, client.Query{Since: mutlog.Beginning}); len(changes) != 1 || head != start {
				t.Errorf("pulled %q, head %d", changes, head)
			}
			r.fill(4, 60000)
			if got := r.get("mutationsSince=0"); len(got.body) < 4*60000 {
				t.Errorf("a long pull has %d bytes", len(got.body))
			}

			large := strings.Repeat(" ", 100_001)
			r.refused(refusal{"POST", "/v1/sync?lastMutationAt=-1", large, nil, 413, "The body must not exceed 100000 bytes", `{"limit":100000}`})
			unsaid, err := http.NewRequest("POST", r.url+"/v1/sync?lastMutationAt=-1", io.MultiReader(strings.NewReader(large))) // of no said length
			if err != nil {
				t.Fatal(err)
			}
			unsaid.Header.Set("Content-Type", "application/json")
			res, err := r.http.Do(unsaid)
			if err != nil {
				t.Fatal(err)
			}
			if res.Body.Close(); res.StatusCode != 413 {
				t.Errorf("a body over the limit: %d", res.StatusCode)
			}

			// Browsers are told to keep to TLS, but not about names that are everybody's.
			for host, want := range map[string]string{"": "", "localhost": "", "notes.example": "max-age=31536000", "evil.example": "max-age=31536000"} {
				for _, uri := range []string{"/livez", "/v1/sync?mutationsSince=0", "/v1/sync", "/x"} {
					if got := r.sendTo(host, "GET", uri, "").Header.Get("Strict-Transport-Security"); got != want {
						t.Errorf("%s of %q: Strict-Transport-Security %q, want %q", uri, host, got, want)
					}
				}
			}
			if got := r.sendTo("evil.example", "GET", "/v1/sync?mutationsSince=0", ""); got.StatusCode != 403 {
				t.Errorf("a foreign host: %d", got.StatusCode)
			}
		})
	}
	if got := newRig(t).sendTo("x", "GET", "/livez", "").Header.Get("Strict-Transport-Security"); got != "" {
		t.Errorf("Strict-Transport-Security without TLS: %q", got)
	}
}

// Old versions of TLS, and requests without it, are refused.
func TestNoWeakTLS(t *testing.T) {
	r := newTLSRig(t, 1)
	c, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err == nil {
		c.Close()
		t.Error("TLS 1.1 is spoken")
	}
	if got := r.speak("GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.0 400") {
		t.Errorf("a request without TLS: %q", got)
	}
}

// One connection too many is told so over TLS, too.
func TestConnectionTooManyTLS(t *testing.T) {
	r := newTLSRig(t, 1, func(o *server.Options) { o.MaxConnections = 1 })
	first, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	io.WriteString(first, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ") // not idle
	time.Sleep(50 * time.Millisecond)
	for deadline := time.Now().Add(20 * time.Second); ; { // a slow machine may miss the time that the refused get
		got, err := r.http.Get(r.url + "/v1/sync?mutationsSince=0")
		if err == nil {
			got.Body.Close()
			if got.StatusCode != 503 || got.Header.Get("Retry-After") == "" {
				t.Errorf("%d, Retry-After %q", got.StatusCode, got.Header.Get("Retry-After"))
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// h2conn speaks HTTP/2 frame by frame.
type h2conn struct {
	t testing.TB
	*http2.Framer
	settings map[http2.SettingID]uint32
}

func (r *rig) dialHTTP2() *h2conn {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(c, http2.ClientPreface)
	h := &h2conn{r.t, http2.NewFramer(c, c), map[http2.SettingID]uint32{}}
	h.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	h.WriteWindowUpdate(0, 1<<30)
	return h
}

// ask opens a stream.
func (h *h2conn) ask(stream uint32, method, uri string, endStream bool, headers ...string) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	fields := append([]string{":method", method, ":scheme", "https", ":authority", "localhost", ":path", uri}, headers...)
	for i := 0; i < len(fields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	h.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: endStream, EndHeaders: true})
}

// until reads frames until one of a stream fits, and answers the server's pings
// and settings.
func (h *h2conn) until(what string, fits func(http2.Frame) bool) {
	h.t.Helper()
	for {
		f, err := h.ReadFrame()
		if err != nil {
			h.t.Fatalf("waiting for %s: %v", what, err)
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			f.ForeachSetting(func(s http2.Setting) error { h.settings[s.ID] = s.Val; return nil })
			if !f.IsAck() {
				h.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				h.WritePing(true, f.Data)
			}
		}
		if fits(f) {
			return
		}
	}
}

// ends waits until the server has ended a stream.
func (h *h2conn) ends(stream uint32) {
	h.t.Helper()
	h.until(fmt.Sprint("the end of stream ", stream), func(f http2.Frame) bool {
		return f.Header().StreamID == stream && (f.Header().Type == http2.FrameRSTStream || f.Header().Flags.Has(http2.FlagDataEndStream) && f.Header().Type == http2.FrameData)
	})
}

// A client that takes nothing of one answer, while it goes on with the others of
// the connection, loses that one; what it held is free again.
func TestStalledStream(t *testing.T) {
	r := newTLSRig(t, 2, func(o *server.Options) {
		o.WriteTimeout = 300 * time.Millisecond
		o.MaxMemory = 1 // one pull at a time
	})
	r.fill(100, 60000)
	h := r.dialHTTP2()
	h.ask(1, "GET", "/v1/sync?mutationsSince=0", true) // 6 MB, of which the window of the stream lets 1 MiB through
	h.until("a reset", func(f http2.Frame) bool {
		return f.Header().StreamID == 1 && f.Header().Type == http2.FrameRSTStream
	})
	h.ask(3, "GET", "/v1/sync?mutationsSince=0&limit=1", true)
	h.until("another answer", func(f http2.Frame) bool {
		headers, ok := f.(*http2.MetaHeadersFrame)
		return ok && f.Header().StreamID == 3 && headers.PseudoValue("status") == "200"
	})
	h.ends(3)
	if got := h.settings[http2.SettingMaxConcurrentStreams]; got != 100 {
		t.Errorf("%d streams at once", got)
	}
}

// A client that takes nothing of a stream of events, while it goes on with the
// others of the connection, loses that stream, and makes room for another (F30).
func TestStalledEvents(t *testing.T) {
	t.Parallel() // it mostly waits
	r := newTLSRig(t, 2, func(o *server.Options) { o.MaxStreams = 1 })
	h := r.dialHTTP2()
	h.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	h.ask(1, "GET", "/v1/sync/events", true)
	status := func(stream uint32) (status string) {
		t.Helper()
		h.until(fmt.Sprint("an answer on ", stream), func(f http2.Frame) bool {
			headers, ok := f.(*http2.MetaHeadersFrame)
			if ok = ok && f.Header().StreamID == stream; ok {
				status = headers.PseudoValue("status")
			}
			return ok
		})
		return status
	}
	if first := status(1); first != "200" {
		t.Fatalf("the stream is answered %s", first)
	}
	h.ask(3, "GET", "/v1/sync/events", true)
	if second := status(3); second != "503" {
		t.Fatalf("beside it, another is answered %s", second)
	}
	begun := time.Now()
	h.until("a reset", func(f http2.Frame) bool {
		return f.Header().StreamID == 1 && f.Header().Type == http2.FrameRSTStream
	})
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it is cut after %s", took)
	}
	next := uint32(5)
	within(t, "the room of the one that was cut", func() bool {
		h.ask(next, "GET", "/v1/sync/events", true)
		next += 2
		return status(next-2) == "200"
	})
}

// A body that does not come is waited for as long as over HTTP/1.
func TestSlowBodyOfStream(t *testing.T) {
	r := newTLSRig(t, 2, func(o *server.Options) { o.ReadTimeout = 300 * time.Millisecond })
	h := r.dialHTTP2()
	h.ask(1, "POST", "/v1/sync?lastMutationAt=-1", false, "content-type", "application/json", "content-length", "100")
	h.WriteData(1, false, []byte("{"))
	h.until("an answer", func(f http2.Frame) bool {
		headers, ok := f.(*http2.MetaHeadersFrame)
		return f.Header().StreamID == 1 && (ok && headers.PseudoValue("status") == "400" || f.Header().Type == http2.FrameRSTStream)
	})
	h.ask(3, "GET", "/v1/sync?mutationsSince=0", true)
	h.ends(3)
	r.unchanged(mutlog.Beginning)
}

// What a client sends for requests that do not read it is bounded for each
// connection, by what the server lets it send.
func TestWindowOfConnection(t *testing.T) {
	entered, leave := make(chan bool, 10), make(chan bool)
	r := newTLSRig(t, 2, func(o *server.Options) { o.Authenticate = waiting(entered, leave) })
	defer close(leave)
	h := r.dialHTTP2()
	window := int64(65535)
	h.until("the settings", func(f http2.Frame) bool {
		if update, ok := f.(*http2.WindowUpdateFrame); ok && f.Header().StreamID == 0 {
			window += int64(update.Increment)
		}
		_, ok := f.(*http2.SettingsFrame)
		return ok && len(h.settings) > 0
	})
	h.ask(1, "POST", "/v1/sync?lastMutationAt=-1", false, "content-type", "application/json", "content-length", "1000000")
	<-entered
	h.WritePing(false, [8]byte{1})
	h.until("the ping", func(f http2.Frame) bool {
		if update, ok := f.(*http2.WindowUpdateFrame); ok {
			window += int64(update.Increment)
		}
		return f.Header().Type == http2.FramePing && f.Header().Flags.Has(http2.FlagPingAck)
	})
	if window > 64<<10 {
		t.Errorf("a client may send %d bytes that nobody reads", window)
	}
	if got := h.settings[http2.SettingMaxFrameSize]; got > 16<<10 {
		t.Errorf("a frame may have %d bytes", got)
	}
}

// A server that drains says so on connections over HTTP/2, and finishes what is
// under way on them.
func TestDrainHTTP2(t *testing.T) {
	entered, leave := make(chan bool, 1), make(chan bool)
	r := newTLSRig(t, 2, func(o *server.Options) { o.Authenticate = waiting(entered, leave) })
	h := r.dialHTTP2()
	h.ask(1, "GET", "/v1/sync?mutationsSince=0", true)
	<-entered
	r.stop()
	h.until("the goodbye", func(f http2.Frame) bool { return f.Header().Type == http2.FrameGoAway })
	close(leave)
	h.ends(1)
}

// A certificate is replaced when its files are, and never by a bad one.
func TestCertificate(t *testing.T) {
	p := newPair(t, "one.example")
	c, err := server.LoadCertificate(p.cert, p.key)
	if err != nil {
		t.Fatal(err)
	}
	inUse := func() string {
		got, err := c.Config().GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return got.Leaf.Subject.CommonName
	}
	reload := func(want bool, wantErr string) {
		t.Helper()
		changed, err := c.Reload()
		if changed != want || (err == nil) != (wantErr == "") || err != nil && !strings.Contains(err.Error(), wantErr) {
			t.Errorf("changed %v, %v; want %v, %q", changed, err, want, wantErr)
		}
	}
	reload(false, "")

	other := newPair(t, "two.example")
	replace := func(to, from string) {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replace(p.cert, other.cert) // and its key comes later
	reload(false, "private key does not match")
	reload(false, "") // which is said once
	if inUse() != "one.example" {
		t.Error("half a pair is in use")
	}
	replace(p.key, other.key)
	reload(true, "")
	if inUse() != "two.example" {
		t.Error("the new pair is not in use")
	}

	os.WriteFile(p.cert, []byte("garbage"), 0o600)
	reload(false, "failed to find any PEM data")
	p.write(t, "three.example", time.Now().Add(-time.Hour))
	reload(false, "expired")
	os.Remove(p.key)
	reload(false, "no such file")
	if inUse() != "two.example" {
		t.Error("a bad pair is in use")
	}
	p.write(t, "four.example", time.Now().Add(time.Hour))
	reload(true, "")
	if inUse() != "four.example" {
		t.Error("a good pair after bad ones is not in use")
	}
	for _, bad := range []pair{{p.cert, p.cert}, {p.cert, other.key}, {p.cert + "x", p.key}, {p.key, p.cert}} {
		if _, err := server.LoadCertificate(bad.cert, bad.key); err == nil {
			t.Errorf("%v is a certificate", bad)
		}
	}

	// A signal makes it look at once.
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal)
	go c.Watch(ctx, signals, slog.New(slog.DiscardHandler))
	p.write(t, "five.example", time.Now().Add(time.Hour))
	signals <- os.Interrupt
	signals <- os.Interrupt // taken when the first has been dealt with
	if inUse() != "five.example" {
		t.Error("a signal does not reload")
	}
}
