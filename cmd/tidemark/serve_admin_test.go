package main_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var answersOperators = regexp.MustCompile(`operators are answered" addr=(\S+)`)

// TestAdminListener asks for the metrics where they are, with the token and without, and where they are not.
func TestAdminListener(t *testing.T) {
	dir := t.TempDir()
	const token = "0123456789abcdefghijklmnopqrstuvwxyz"
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("token", token+"\n", 0o600)
	writeCertificate(t, dir, 1)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer client.CloseIdleConnections()
	ask := func(c *http.Client, url string, authorization ...string) (int, string) {
		t.Helper()
		r, err := http.NewRequest("GET", url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if len(authorization) > 0 {
			r.Header["Authorization"] = authorization
		}
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == 401 && res.Header.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("401 with WWW-Authenticate %q", res.Header.Get("WWW-Authenticate"))
		}
		return res.StatusCode, string(body)
	}
	for _, scheme := range []string{"http", "https"} {
		args := []string{"--admin-addr", "127.0.0.1:0", "--admin-token-file", "token", "--store", scheme + ".db"}
		if scheme == "https" {
			args = append(args, "--tls-cert", "cert.pem", "--tls-key", "key.pem")
		}
		p := serve(t, dir, args...)
		var addr string
		waitFor(t, "the listener for operators", func() bool {
			if m := answersOperators.FindStringSubmatch(p.stderr.String()); m != nil {
				addr = m[1]
			}
			return addr != ""
		})
		public, operators := scheme+"://"+p.addr, scheme+"://"+addr
		if status, _ := ask(client, public+"/v1/sync?mutationsSince=0"); status != 200 {
			t.Fatalf("a pull: %d", status)
		}
		for _, path := range []string{"/metrics", "/v1/tokens", "/debug/pprof/"} {
			if status, body := ask(client, public+path, "Bearer "+token); status != 404 {
				t.Errorf("devices get at %s: %d %s", path, status, body)
			}
		}
		for _, authorization := range [][]string{nil, {"Bearer "}, {"Bearer " + token[1:]}, {"Bearer " + token + "x"}, {"Basic " + token}, {token}, {"Bearer " + token, "Bearer " + token}} {
			for _, path := range []string{"/metrics", "/v1/tokens", "/nothing"} {
				if status, body := ask(client, operators+path, authorization...); status != 401 || strings.Contains(body, token) {
					t.Errorf("%s with %q: %d %s", path, authorization, status, body)
				}
			}
		}
		for _, scheme := range []string{"Bearer ", "bearer "} {
			status, body := ask(client, operators+"/metrics", scheme+token)
			if status != 200 || !strings.Contains(body, "\nhttp_server_request_duration_seconds_count{http_request_method=\"GET\",http_response_status_code=\"200\",http_route=\"/v1/sync\"} 1\n") {
				t.Errorf("/metrics: %d %.2000s", status, body)
			}
		}
		if status, body := ask(client, operators+"/v1/tokens", "Bearer "+token); status != 200 {
			t.Errorf("/v1/tokens: %d %s", status, body)
		}
		socket := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, scheme+".db.sock"))
		}}}
		if status, body := ask(socket, "http://tidemark/metrics"); status != 200 || !strings.Contains(body, "\ntidemark_store_file_bytes ") {
			t.Errorf("/metrics on the socket: %d %.300s", status, body)
		}
		socket.CloseIdleConnections()
		client.CloseIdleConnections()
		p.stop(t)
	}

	write("open", token, 0o644)
	write("short", "0123456789", 0o600)
	write("blank", strings.Repeat("a b", 20), 0o600)
	for _, args := range [][]string{
		{"--admin-addr", "127.0.0.1:0"}, {"--admin-token-file", "token"}, {"--admin-addr", "x", "--admin-token-file", "token"},
		{"--admin-addr", "0.0.0.0:0", "--admin-token-file", "token"},
		{"--admin-addr", "127.0.0.1:0", "--admin-token-file", "open"}, {"--admin-addr", "127.0.0.1:0", "--admin-token-file", "short"},
		{"--admin-addr", "127.0.0.1:0", "--admin-token-file", "blank"}, {"--admin-addr", "127.0.0.1:0", "--admin-token-file", "none"},
	} {
		cmd := command(t, dir, append([]string{"serve", "--addr", "127.0.0.1:0"}, args...)...)
		if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 64 || strings.Contains(string(out), token) {
			t.Errorf("%v: exit code %d\n%s", args, cmd.ProcessState.ExitCode(), out)
		}
	}
}
