package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tidemark/mutlog"
)

const vectorSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func mustParse(t testing.TB, text string) Secret {
	t.Helper()
	s, err := ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The request of docs/webhooks.md is what the server would send.
func TestDocumentedVector(t *testing.T) {
	doc, err := os.ReadFile("../docs/webhooks.md")
	if err != nil {
		t.Fatal(err)
	}
	at := time.UnixMilli(1769340915573)
	m := &message{user: "ada", head: 1769340915573, id: "01KFTEZKVP69WZJVP6YH3ZZWSD", made: at}
	b := bodyOf(m)
	for _, want := range []string{vectorSecret, "\n" + string(b) + "\n", "webhook-id: " + m.id + "\n", fmt.Sprintf("webhook-timestamp: %d\n", at.Unix()),
		"webhook-signature: " + mustParse(t, vectorSecret).sign(m.id, at, b) + "\n"} {
		if !strings.Contains(string(doc), want) {
			t.Errorf("docs/webhooks.md does not have %q", want)
		}
	}
}

// The example of the specification is signed as it says there, so that receivers
// can use the libraries for it.
func TestVectorOfSpecification(t *testing.T) {
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	got := mustParse(t, vectorSecret).sign("msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestParseSecret(t *testing.T) {
	mustParse(t, " "+vectorSecret+"\n")
	for _, bad := range []string{"", "whsec_", vectorSecret[6:], "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa", "whsec_!" + vectorSecret[7:], "WHSEC_" + vectorSecret[6:], vectorSecret + " x",
		"whsec_" + strings.Repeat("AAAA", 22)} {
		if _, err := ParseSecret(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestURL(t *testing.T) {
	for target, want := range map[string]bool{"https://push.example.com/x?y=z": true, "http://127.0.0.1:99/": true, "http://localhost/": true, "http://[::1]/": true,
		"http://push.example.com/": false, "ftp://push.example.com": false, "https://": false, "": false, "/x": false, "https://x/#y": false, "http://127.0.0.1.example.com": false, ":": false} {
		if _, err := New(target, mustParse(t, vectorSecret), slog.New(slog.DiscardHandler)); (err == nil) != want {
			t.Errorf("%q: %v", target, err)
		}
	}
}

// receiver checks what comes as docs/webhooks.md says.
type receiver struct {
	t      testing.TB
	mu     sync.Mutex
	heads  map[mutlog.User][]mutlog.Timestamp
	ids    map[string]int
	answer func(n int, head mutlog.Timestamp) int // the status of the nth request, from 0
	n      int

	elsewhere string // where answers that are no success point to
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	b, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	id, stamp := q.Header.Get("webhook-id"), q.Header.Get("webhook-timestamp")
	seconds, _ := strconv.ParseInt(stamp, 10, 64)
	secret, _ := ParseSecret(vectorSecret)
	if q.Header.Get("webhook-signature") != secret.sign(id, time.Unix(seconds, 0), b) || id == "" {
		r.t.Errorf("%v is not signed right", q.Header)
	}
	if off := time.Since(time.Unix(seconds, 0)).Abs(); off > time.Minute {
		r.t.Errorf("the timestamp is %s off", off)
	}
	var got body
	if err := json.Unmarshal(b, &got); err != nil || got.Type != "log.changed" {
		r.t.Errorf("%s: %v", b, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.n
	r.n++
	if status := r.answer(n, got.Data.Head); status != 200 {
		w.Header().Set("Location", r.elsewhere)
		w.WriteHeader(status)
		r.ids[id]++
		return
	}
	r.ids[id]++
	r.heads[got.Data.User] = append(r.heads[got.Data.User], got.Data.Head)
}

// TestDelivery: over HTTP, every user's last head arrives, although some requests
// fail, and nobody is sent elsewhere (API7 of OWASP: forged requests).
func TestDelivery(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("sent elsewhere: %s", r.Method) }))
	defer elsewhere.Close()
	lastFailed := false // behind which nothing newer comes, so that it is sent again as it was
	r := &receiver{t: t, heads: map[mutlog.User][]mutlog.Timestamp{}, ids: map[string]int{}, answer: func(n int, head mutlog.Timestamp) int {
		if isLast := head == 19 && !lastFailed; n < 9 || isLast {
			lastFailed = lastFailed || isLast
			return []int{500, 302, 307, 429}[n%4]
		}
		return 200
	}, elsewhere: elsewhere.URL}
	s := httptest.NewServer(r)
	defer s.Close()
	h, err := New(s.URL, mustParse(t, vectorSecret), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() { h.Run(ctx, ctx); close(over) }()
	for head := range 20 {
		for user := range 10 {
			h.Pushed(mutlog.User(fmt.Sprint(user)), mutlog.Timestamp(head))
		}
	}
	level := func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for user := range 10 {
			heads := r.heads[mutlog.User(fmt.Sprint(user))]
			if len(heads) == 0 || heads[len(heads)-1] != 19 {
				return false
			}
		}
		return true
	}
	for deadline := time.Now().Add(60 * time.Second); !level(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute there are %v", r.heads)
		}
	}
	stop()
	<-over
	if len(r.ids) == r.n {
		t.Error("no message was sent again under its id, although some failed")
	}
}

// inBubble runs a hook whose requests are answered by answer; time passes at once.
func inBubble(t *testing.T, answer func(at time.Time, user mutlog.User, head mutlog.Timestamp) (status int), test func(t *testing.T, h *Hook)) {
	synctest.Test(t, func(t *testing.T) {
		h, err := New("https://push.example.com", mustParse(t, vectorSecret), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		h.http.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			var got body
			if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
				t.Error(err)
			}
			return &http.Response{StatusCode: answer(time.Now(), got.Data.User, got.Data.Head), Body: http.NoBody, Request: r}, nil
		})
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() { h.Run(ctx, ctx); close(over) }()
		test(t, h)
		stop()
		<-over
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestBackOff: a receiver that fails is tried at growing intervals, for about a
// day, and not again.
func TestBackOff(t *testing.T) {
	var tries []time.Time
	inBubble(t, func(at time.Time, _ mutlog.User, _ mutlog.Timestamp) int { tries = append(tries, at); return 500 }, func(t *testing.T, h *Hook) {
		h.Pushed("ada", 1)
		time.Sleep(10 * 24 * time.Hour)
		if got, want := h.Stats(), (Stats{Failures: maxTries, Dropped: 1}); got != want {
			t.Errorf("it is given up: %+v, want %+v", got, want)
		}
	})
	if len(tries) != maxTries {
		t.Fatalf("%d tries", len(tries))
	}
	for i := 1; i < len(tries); i++ {
		pause, want := tries[i].Sub(tries[i-1]), min(time.Second<<(i-1), 2*time.Hour)
		if pause < want/2 || pause > want*3/2 {
			t.Errorf("%s before try %d, want about %s", pause, i+1, want)
		}
	}
	if all := tries[len(tries)-1].Sub(tries[0]); all < 12*time.Hour || all > 48*time.Hour {
		t.Errorf("it is tried for %s", all)
	}
}

// TestWarnings: that a receiver fails is in the log at once, and not for each
// message.
func TestWarnings(t *testing.T) {
	var log bytes.Buffer
	inBubble(t, func(time.Time, mutlog.User, mutlog.Timestamp) int { return 401 }, func(t *testing.T, h *Hook) {
		h.logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
		for user := range 100 {
			h.Pushed(mutlog.User(fmt.Sprint(user)), 1)
		}
		time.Sleep(30 * time.Second)
	})
	if n := strings.Count(log.String(), "trying again"); n != 1 || !strings.Contains(log.String(), "401") {
		t.Errorf("%d warnings in half a minute:\n%s", n, log.String())
	}
}

// TestNoSecretsLogged: whatever becomes of a request, the log has neither what
// signs it nor the URL, whose path or query may be a secret of the receiver.
func TestNoSecretsLogged(t *testing.T) {
	gone, plain := httptest.NewServer(nil), httptest.NewServer(nil)
	gone.Close()
	defer plain.Close()
	for _, target := range []string{gone.URL, plain.URL, strings.Replace(plain.URL, "http", "https", 1)} {
		var log bytes.Buffer
		h, err := New(target+"/hush?key=hush", mustParse(t, vectorSecret), slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
		if err != nil {
			t.Fatal(err)
		}
		m := &message{user: "ada", head: 1, id: "1", made: time.Now(), tries: 1}
		for range 2 { // a warning, and then only for who wants to see all
			h.failed(m.user, m.tries, true, h.send(t.Context(), m))
		}
		h.failed(m.user, m.tries, false, h.send(t.Context(), m))
		if n := strings.Count(log.String(), "user=ada"); n != 3 {
			t.Errorf("%d lines", n)
		}
		for _, secret := range []string{"hush", vectorSecret, vectorSecret[len(secretPrefix):]} {
			if strings.Contains(log.String(), secret) {
				t.Errorf("the log has %s:\n%s", secret, log.String())
			}
		}
	}
	if _, err := New("https://x/hush\x7f", nil, nil); err == nil || strings.Contains(err.Error(), "hush") {
		t.Errorf("a URL that does not parse: %v", err)
	}
}

// TestCoalesced: of one user one request is under way, and what comes meanwhile
// becomes one; a receiver that is slow for one user does not keep others waiting.
func TestCoalesced(t *testing.T) {
	var mu sync.Mutex
	heads := map[mutlog.User][]mutlog.Timestamp{}
	busy := map[mutlog.User]bool{}
	inBubble(t, func(_ time.Time, user mutlog.User, head mutlog.Timestamp) int {
		mu.Lock()
		if busy[user] {
			t.Errorf("two requests for %s at once", user)
		}
		busy[user] = true
		heads[user] = append(heads[user], head)
		mu.Unlock()
		if user == "slow" {
			time.Sleep(5 * time.Second)
		}
		mu.Lock()
		defer mu.Unlock()
		busy[user] = false
		return 200
	}, func(t *testing.T, h *Hook) {
		for head := range mutlog.Timestamp(100) {
			h.Pushed("slow", head)
			h.Pushed("quick", head)
			time.Sleep(10 * time.Millisecond)
		}
		mu.Lock()
		if n := len(heads["quick"]); n != 100 {
			t.Errorf("%d requests of the quick one beside a slow one", n)
		}
		mu.Unlock()
		time.Sleep(time.Minute)
	})
	if got := heads["slow"]; len(got) != 2 || got[1] != 99 {
		t.Errorf("the slow one was told %v", got)
	}
}

// TestBounded: without a receiver nobody waits, memory is bounded, and the heads
// of those who have a place are kept up to date.
func TestBounded(t *testing.T) {
	down := true
	last := map[mutlog.User]mutlog.Timestamp{}
	var mu sync.Mutex
	inBubble(t, func(_ time.Time, user mutlog.User, head mutlog.Timestamp) int {
		mu.Lock()
		defer mu.Unlock()
		if down {
			return 503
		}
		last[user] = head
		return 200
	}, func(t *testing.T, h *Hook) {
		begun := time.Now()
		for head := range mutlog.Timestamp(3) {
			for user := range maxWaiting + 500 {
				h.Pushed(mutlog.User(fmt.Sprint(user)), head)
			}
		}
		if time.Since(begun) > 0 {
			t.Error("a push waited for the webhook")
		}
		if got := h.Stats(); got.Waiting != maxWaiting || got.Dropped != 3*500 {
			t.Errorf("there was no room for any more: %+v", got)
		}
		time.Sleep(time.Minute)
		mu.Lock()
		down = false
		mu.Unlock()
		time.Sleep(time.Hour)
		if got := h.Stats(); got.Waiting != 0 || got.Delivered != maxWaiting || got.Failures < maxWaiting || got.Dropped != 3*500 {
			t.Errorf("all was taken: %+v", got)
		}
	})
	for user := range maxWaiting {
		if last[mutlog.User(fmt.Sprint(user))] != 2 {
			t.Fatalf("user %d was told %d", user, last[mutlog.User(fmt.Sprint(user))])
		}
	}
	if len(last) != maxWaiting {
		t.Errorf("%d users were told", len(last))
	}
}
