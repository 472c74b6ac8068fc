package main_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tidemark/client"
	"tidemark/mutlog"
)

// Of a user who was erased, the file has no byte once it was compacted: neither data nor names, keys, devices or tokens.
// Others are as they were, and a device that comes back is told that the log is another.
func TestErase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server := serve(t, dir, "--fold-batches", "20")
	cursors := map[mutlog.User]mutlog.Timestamp{}
	for _, user := range []mutlog.User{"erased-marker-user", "other-user"} {
		device, err := client.New("http://"+server.addr, client.WithUser(user), client.WithClientID(string(user)+"-marker-device"))
		if err != nil {
			t.Fatal(err)
		}
		cursors[user] = mutlog.Beginning
		for i := range 60 {
			pushed, err := device.Push(t.Context(), client.Push{Base: cursors[user], Key: fmt.Sprint(user, "-marker-key-", i), Mutations: []mutlog.Mutation{
				{Type: mutlog.Create, Resource: "NOTE", ResourceID: fmt.Sprint(user, "-", i%7), Data: fmt.Appendf(nil, `{"text":"%s-marker-text","n":%d}`, user, i)}}})
			if err != nil {
				t.Fatal(err)
			}
			cursors[user] = pushed.Head
		}
	}
	if code, out := tool(t, dir, "user", "erase", "erased-marker-user"); code != 64 || !strings.Contains(out, "--yes") {
		t.Errorf("without --yes: exit code %d\n%s", code, out)
	}
	if code, out := tool(t, dir, "user", "erase", "erased-marker-user", "--yes"); code != 0 || !strings.Contains(out, "erased 60 mutations and 0 tokens of erased-marker-user") {
		t.Fatalf("erase: exit code %d\n%s", code, out)
	}
	for user, want := range map[mutlog.User]mutlog.Reason{"erased-marker-user": mutlog.CursorAhead, "other-user": ""} {
		device, err := client.New("http://"+server.addr, client.WithUser(user))
		if err != nil {
			t.Fatal(err)
		}
		pull := device.Pull(t.Context(), client.Query{Since: cursors[user]})
		var refusal mutlog.OutOfSyncError
		for _, err := range pull.All() {
			if told := (*mutlog.OutOfSyncError)(nil); errors.As(err, &told) {
				refusal = *told
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if refusal.Reason != want {
			t.Errorf("%s: the reason is %q, want %q", user, refusal.Reason, want)
		}
	}
	if code, out := tool(t, dir, "token", "create", "--user", "erased-marker-user"); code != 0 {
		t.Fatalf("token create: exit code %d\n%s", code, out)
	}
	if code, out := tool(t, dir, "user", "erase", "erased-marker-user", "--yes"); code != 0 || !strings.Contains(out, "erased 0 mutations and 1 tokens") {
		t.Fatalf("erase again: exit code %d\n%s", code, out)
	}
	server.stop(t)
	if code, out := tool(t, dir, "compact"); code != 0 {
		t.Fatalf("compact: exit code %d\n%s", code, out)
	}
	check(t, dir, "tidemark.db")
	content, err := os.ReadFile(filepath.Join(dir, "tidemark.db"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(content, []byte("erased-marker")) {
		i := bytes.Index(content, []byte("erased-marker"))
		t.Errorf("the file still has %q", content[max(0, i-60):min(len(content), i+60)])
	}
	if !bytes.Contains(content, []byte("other-user-marker-text")) {
		t.Error("the file does not have what others pushed, and this test would notice nothing")
	}
}
