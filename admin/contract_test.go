package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tidemark/admin"
	"tidemark/auth"
	"tidemark/backup"
	"tidemark/mutlog"
	"tidemark/openapitest"
	"tidemark/store"
	"tidemark/telemetry"
)

// contract is openapi-admin.yaml, which is read once.
var contract = sync.OnceValues(func() (*openapitest.Document, error) { return openapitest.Read("../openapi-admin.yaml") })

func TestMain(m *testing.M) {
	code := m.Run()
	if run := flag.Lookup("test.run"); code == 0 && run.Value.String() == "" {
		d, err := contract()
		if err != nil {
			panic(err)
		}
		for _, complaint := range d.NeverSeen(nil) {
			fmt.Fprintln(os.Stderr, complaint)
			code = 1
		}
	}
	os.Exit(code)
}

const secret = "0123456789abcdef0123456789abcdef"

// rig is a guarded handler on a store that can be made to fail.
type rig struct {
	t     *testing.T
	dir   string
	store *failing
	host  *httptest.Server
	h     *admin.Handler
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	bolt, err := store.OpenBolt(filepath.Join(r.dir, "tidemark.db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { bolt.Close() })
	r.store = &failing{Store: bolt}
	logger := slog.New(slog.DiscardHandler)
	authority, err := auth.NewAuthority(t.Context(), r.store, nil, logger)
	if err != nil {
		t.Fatal(err)
	}
	r.h = admin.NewHandler(admin.Options{Store: r.store, Authority: authority, Logger: logger, Figures: telemetry.New("test").Handler(),
		Backup: func(ctx context.Context, file string, o backup.Options) (*backup.Manifest, error) {
			if r.store.err != nil {
				return nil, r.store.err
			}
			return backup.Make(ctx, bolt, file, o)
		}})
	r.host = httptest.NewServer(admin.RequireToken(secret, r.h))
	t.Cleanup(r.host.Close)
	return r
}

// ask asks, holds the answer to the document, and returns its body.
func (r *rig) ask(method, uri, mediaType, body string, want int) string {
	r.t.Helper()
	return r.askWith("Bearer "+secret, method, uri, mediaType, body, want)
}

func (r *rig) askWith(authorization, method, uri, mediaType, body string, want int) string {
	r.t.Helper()
	d, err := contract()
	if err != nil {
		r.t.Fatal(err)
	}
	req, err := http.NewRequest(method, r.host.URL+uri, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	req.Header.Set("Authorization", authorization)
	if mediaType != "" {
		req.Header.Set("Content-Type", mediaType)
	}
	res, err := openapitest.Transport{T: r.t, Document: d}.RoundTrip(req)
	if err != nil {
		r.t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != want {
		r.t.Errorf("%s %s: status %d, want %d: %s (%v)", method, uri, res.StatusCode, want, text, err)
	}
	return string(text)
}

func (r *rig) push(user mutlog.User, n int) {
	r.t.Helper()
	log := mutlog.New(r.store, mutlog.DefaultLimits)
	for i := range n {
		head, err := log.Head(r.t.Context(), user)
		if err != nil {
			r.t.Fatal(err)
		}
		m := mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", ResourceID: fmt.Sprint(i), Data: []byte(`{"text":"milk"}`)}
		if _, err := log.Push(r.t.Context(), user, mutlog.Push{Base: head, Mutations: []mutlog.Mutation{m}}); err != nil {
			r.t.Fatal(err)
		}
	}
}

const (
	none    = ""
	asJSON  = "application/json"
	asLines = "application/x-ndjson"
)

// TestRoutesAreDocumented compares the route table with openapi-admin.yaml.
func TestRoutesAreDocumented(t *testing.T) {
	d, err := contract()
	if err != nil {
		t.Fatal(err)
	}
	routes := newRig(t).h.Routes()
	slices.Sort(routes)
	if diff := cmp.Diff(d.Routes(), routes); diff != "" {
		t.Errorf("openapi-admin.yaml (-) and the handler (+) differ:\n%s", diff)
	}
}

// TestEveryAnswer brings about every answer that openapi-admin.yaml describes.
func TestEveryAnswer(t *testing.T) {
	r := newRig(t)
	r.push("alice", 5)
	var made struct{ ID, Token string }
	if err := json.Unmarshal([]byte(r.ask("POST", "/v1/tokens", asJSON, `{"user":"alice","scopes":["sync"]}`, 200)), &made); err != nil || !strings.HasPrefix(made.Token, "tm_") {
		t.Fatalf("%+v, %v", made, err)
	}
	r.ask("POST", "/v1/tokens", asJSON, `{"user":"alice","scopes":["sync"]}`, 200)
	r.ask("POST", "/v1/tokens", asJSON, `{"user":"","scopes":["sync"]}`, 400)
	r.ask("POST", "/v1/tokens", asJSON, `{"user":"alice","scope":"sync"}`, 400)
	r.ask("GET", "/v1/tokens", none, "", 200)
	r.ask("DELETE", "/v1/tokens/"+made.ID, none, "", 200)
	r.ask("DELETE", "/v1/tokens/"+made.ID, none, "", 404)

	r.ask("GET", "/v1/user?user=alice", none, "", 200)
	r.ask("GET", "/v1/user?user=..%2F..", none, "", 200)
	for _, query := range []string{"", "?user=", "?usr=alice", "?user=alice&user=bob", "?user=alice&x=1", "?user=%zz", "?user=a;user=b", "?user=a%0Ab", "?user=%ff",
		"?user=" + strings.Repeat("x", 256)} {
		r.ask("GET", "/v1/user"+query, none, "", 400)
		r.ask("DELETE", "/v1/user"+query, none, "", 400)
		if query != "" {
			r.ask("POST", "/v1/user/import"+query, asLines, "", 400)
		}
	}
	text := r.ask("GET", "/v1/user/export?user=alice", none, "", 200)
	r.ask("GET", "/v1/user/export?user=bob", none, "", 404)
	r.ask("GET", "/v1/user/export", none, "", 400)
	r.ask("POST", "/v1/user/import?user=bob", asLines, text, 200)
	r.ask("POST", "/v1/user/import?user=bob", asLines, text, 409)
	r.ask("POST", "/v1/user/import?user=carol", asLines, text[:len(text)/2], 400)
	if got := r.ask("GET", "/v1/user?user=carol", none, "", 200); !strings.Contains(got, `"held":true`) {
		t.Errorf("half an import: %s", got)
	}

	file := func(name string) string { return fmt.Sprintf(`{"file":%q}`, filepath.Join(r.dir, name)) }
	if got := r.ask("POST", "/v1/backup", asJSON, file("a.backup"), 200); !strings.Contains(got, `{"result":{"tidemark":"backup"`) {
		t.Errorf("the backup answers %s", got)
	}
	r.ask("POST", "/v1/backup", asJSON, file("a.backup"), 409)
	r.ask("POST", "/v1/backup", asJSON, `{"file":"a.backup"}`, 400)
	r.ask("POST", "/v1/fence", asJSON, `{"at":0}`, 200)
	r.ask("POST", "/v1/fence", asJSON, `{"at":-7}`, 400)

	if got := r.ask("DELETE", "/v1/user?user=alice", none, "", 200); !strings.Contains(got, `{"result":{"mutations":5,"tokens":1,`) {
		t.Errorf("the erasure answers %s", got)
	}
	if got := r.ask("GET", "/v1/user?user=alice", none, "", 200); !strings.Contains(got, `"head":-1`) || !strings.Contains(got, `"gaps":[{"after":-1,`) {
		t.Errorf("after the erasure: %s", got)
	}
	r.ask("DELETE", "/v1/user", none, "", 400)
	r.ask("DELETE", "/v1/tokens?user=alice", none, "", 200)
	r.ask("DELETE", "/v1/tokens", none, "", 400)

	if got := r.ask("GET", "/metrics", none, "", 200); !strings.Contains(got, "\ntidemark_mutations_total 0\n") {
		t.Errorf("the metrics are %.1000s", got)
	}
	r.h.Figures = nil
	r.ask("GET", "/metrics", none, "", 404)

	r.ask("GET", "/v1/sync", none, "", 404)
	r.ask("GET", "/", none, "", 404)
	r.ask("PUT", "/v1/user", none, "", 405)
	r.ask("POST", "/v1/tokens/"+made.ID, none, "", 405)
}

// TestEveryRouteFails: no route hides that the store fails, and each asks for the
// secret.
func TestEveryRouteFails(t *testing.T) {
	r := newRig(t)
	r.push("alice", 1)
	text := r.ask("GET", "/v1/user/export?user=alice", none, "", 200)
	for _, route := range append(r.h.Routes(), "GET /none", "PATCH /v1/user") {
		method, path, _ := strings.Cut(route, " ")
		uri, mediaType, body := strings.Replace(path, "{id}", "01M7W6RS23P08CS1YXAENRC6N8", 1), asJSON, ""
		switch route {
		case "POST /v1/user/import":
			uri, mediaType, body = path+"?user=bob", asLines, text
		case "POST /v1/tokens":
			body = `{"user":"alice","scopes":["sync"]}`
		case "POST /v1/fence":
			body = `{"at":1}`
		case "POST /v1/backup":
			body = fmt.Sprintf(`{"file":%q}`, filepath.Join(r.dir, "b.backup"))
		default:
			uri += "?user=alice"
		}
		for _, authorization := range []string{"", "Bearer", "Bearer " + secret[1:], "Basic " + secret, secret} {
			r.askWith(authorization, method, uri, mediaType, body, 401)
		}
		if path == "/none" || method == "PATCH" || path == "/metrics" { // the last asks no store
			continue
		}
		for err, status := range map[error]int{errors.New("broken"): 500, mutlog.ErrUnavailable: 503} {
			r.store.err = err
			if got := r.ask(method, uri, mediaType, body, status); !strings.Contains(got, err.Error()) {
				t.Errorf("%s does not say why it fails: %s", route, got)
			}
			r.store.err = nil
		}
	}
}

// A token that somebody revokes by the whole of it, where only its id counts, does
// not get into the log, for it still lets in. Nor does what is nearly one.
func TestLogHoldsNoToken(t *testing.T) {
	r := newRig(t)
	var log strings.Builder
	r.h.Logger = slog.New(slog.NewTextHandler(&log, nil))
	var made admin.CreatedToken
	if err := json.Unmarshal([]byte(r.ask("POST", "/v1/tokens", "application/json", `{"user":"alice","scopes":["sync"]}`, 200)), &made); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{made.Token, made.Token[:60], made.Token[1:], made.Token + "%2Fx"} {
		r.ask("DELETE", "/v1/tokens/"+id, "", "", 404)
	}
	r.store.err = mutlog.ErrUnavailable
	r.ask("DELETE", "/v1/tokens/"+made.ID, "", "", 503)
	r.store.err = nil
	r.ask("DELETE", "/v1/tokens/"+made.ID, "", "", 200)
	if strings.Contains(log.String(), made.Token[30:50]) {
		t.Errorf("the log holds the secret of a token:\n%s", &log)
	}
	if n := strings.Count(log.String(), "path=/v1/tokens/"+made.ID+"\n"); n != 1 || strings.Count(log.String(), "path=/v1/tokens/"+made.ID+" error=") != 2 {
		t.Errorf("the log does not tell of the token that was revoked:\n%s", &log)
	}
}

// failing is a store that answers with err while there is one. Set it between
// requests only.
type failing struct {
	mutlog.Store
	err       error
	uncounted error // of CountBatches alone
}

func (f *failing) View(ctx context.Context, user mutlog.User, fn func(mutlog.Reader) error) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.View(ctx, user, fn)
}

func (f *failing) CountBatches(ctx context.Context, user mutlog.User) (int64, error) {
	if err := errors.Join(f.err, f.uncounted); err != nil {
		return 0, err
	}
	return f.Store.(*store.Bolt).CountBatches(ctx, user)
}

func (f *failing) Record(ctx context.Context, key mutlog.RecordKey) ([]byte, error) {
	if f.err != nil {
		return nil, f.err
	}
	return f.Store.Record(ctx, key)
}

func (f *failing) UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func([]byte) ([]byte, error)) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.UpdateRecord(ctx, key, fn)
}

func (f *failing) Records(ctx context.Context, kind, owner string) iter.Seq2[mutlog.Record, error] {
	if f.err != nil {
		return func(yield func(mutlog.Record, error) bool) { yield(mutlog.Record{}, f.err) }
	}
	return f.Store.Records(ctx, kind, owner)
}

func (f *failing) Erase(ctx context.Context, user mutlog.User, until mutlog.Timestamp, progress func(int)) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.Erase(ctx, user, until, progress)
}

func (f *failing) Fence(ctx context.Context, at mutlog.Timestamp) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.Fence(ctx, at)
}
