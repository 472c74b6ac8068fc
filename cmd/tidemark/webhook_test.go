package main_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A push is told to the webhook, and neither a replay nor a refusal is.
func TestWebhook(t *testing.T) {
	told := make(chan string, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !strings.HasPrefix(r.Header.Get("webhook-signature"), "v1,") {
			t.Errorf("it is not signed: %v", r.Header)
		}
		told <- string(body)
	}))
	defer receiver.Close()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := serve(t, dir, "--webhook-url", receiver.URL, "--webhook-secret-file", "secret")
	push := func(base, id string) (head string) {
		t.Helper()
		r, err := http.NewRequest("POST", "http://"+p.addr+"/v1/sync?lastMutationAt="+base,
			strings.NewReader(`{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"`+id+`","data":{}}]}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-User-Id", "ada")
		a, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		return a.Header.Get("X-Mutation-At")
	}
	first := push("-1", "a")
	want := func(head string) {
		t.Helper()
		select {
		case body := <-told:
			if ok, _ := regexp.MatchString(`^\{"type":"log.changed","timestamp":"[^"]+","data":\{"user":"ada","lastMutationAt":`+head+`\}\}$`, body); !ok {
				t.Errorf("told %s, want the head %s", body, head)
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("the push of %s is not told", head)
		}
	}
	want(first)
	push("-1", "a") // again
	push("-1", "b") // behind
	want(push(first, "c"))
	p.stop(t)
	if len(told) > 0 {
		t.Errorf("told %s", <-told)
	}
}

// What cannot be a webhook stops the start.
func TestWebhookRefused(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"good": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "bad": "secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, flags := range [][]string{{"--webhook-url", "https://x"}, {"--webhook-secret-file", "good"}, {"--webhook-url", "https://x", "--webhook-secret-file", "none"},
		{"--webhook-url", "https://x", "--webhook-secret-file", "bad"}, {"--webhook-url", "http://push.example.com", "--webhook-secret-file", "good"}} {
		out, err := command(t, dir, append([]string{"serve", "--addr", "127.0.0.1:0"}, flags...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "webhook") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%v: %v %s", flags, err, out)
		}
	}
}
