package main_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

// A wrong flag or an unusable path stops the start with one clear line, and with an exit code that help lists.
func TestServeRefusesToStart(t *testing.T) {
	dir := t.TempDir()
	_, help := tool(t, dir, "help")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		flags string
		code  int
		says  string
	}{
		{"--bogus", 64, "unknown flag --bogus"},
		{"more", 64, "unexpected argument more"},
		{"--addr 127.0.0.1", 64, "missing port"},
		{"--addr 0.0.0.0:0", 64, "not a loopback address"},
		{"--addr " + taken.Addr().String(), 69, "address already in use"},
		{"--store=", 64, "--store must name a file or a database"},
		{"--store .", 73, "is a directory"},
		{"--store no/such/dir.db", 73, "no/such/dir.db"},
		{"--store mysql://host/name", 73, "mysql:// is no kind of store"},
		{"--store postgres://host:port/name", 73, "a part that PostgreSQL does not know"},
		{"--max-mutations 0", 64, "--max-mutations must be from 1 to"},
		{"--max-mutations many", 64, "--max-mutations"},
		{"--max-body-bytes 0", 64, "--max-body-bytes must be from 1 to"},
		{"--max-data-bytes 1", 64, "--max-data-bytes must be from 2 to"},
		{"--max-connections 0", 64, "--max-connections must be at least 1"},
		{"--max-memory 1", 64, "--max-memory must be 0 or at least"},
		{"--read-timeout 1", 64, "missing unit"},
		{"--idle-timeout 0s", 64, "--idle-timeout must be at least"},
		{"--quota-bytes=-1", 64, "--quota-bytes"},
		{"--history-retention 1s", 64, "a retention must be 0 or at least"},
		{"--backup-keep 0", 64, "--backup-keep must be at least 1"},
		{"--allowed-host http://notes.example", 64, "--allowed-host: a host is a name or an address"},
		{"--allowed-host notes.example/", 64, "--allowed-host: a host is a name or an address"},
		{"--cors-origin notes.example", 64, "--cors-origin: an origin is scheme://host"},
		{"--trusted-proxies nginx", 64, "--trusted-proxies: \"nginx\" is neither"},
		{"--user-rate often", 64, "--user-rate: a rate is requests/time"},
		{"--pprof 0.0.0.0:1", 64, "--pprof must be host:port on the loopback interface"},
		{"--check some", 64, "--check must be one of"},
		{"--log-level loud", 64, "--log-level must be one of"},
		{"--resources none.yaml", 78, "none.yaml"},
	} {
		args := append([]string{"serve", "--addr", "127.0.0.1:0"}, strings.Fields(c.flags)...)
		code, out := tool(t, dir, args...)
		if code != c.code || !strings.HasPrefix(out, "tidemark: ") || !strings.Contains(out, c.says) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: exit code %d, want %d\n%s", c.flags, code, c.code, out)
		}
		if !strings.Contains(help, fmt.Sprintf("\n    %d  ", code)) {
			t.Errorf("%s: help does not list the exit code %d", c.flags, code)
		}
	}
}
