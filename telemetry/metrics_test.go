package telemetry

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.yaml.in/yaml/v3"

	"tidemark/backup"
	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store"
	"tidemark/webhook"
)

// rig is a server whose figures are kept.
type rig struct {
	t       testing.TB
	figures *Metrics
	server  *server.Server
	log     *mutlog.Log
}

func newRig(t testing.TB, change ...func(*server.Options)) *rig {
	t.Helper()
	m := New("v1.2.3")
	s, err := store.OpenBolt(filepath.Join(t.TempDir(), "tidemark.db"), store.BoltOptions{Committed: m.Committed})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	log := mutlog.New(s, mutlog.DefaultLimits)
	o := server.Options{Log: log, Limits: mutlog.DefaultLimits, MaxBodyBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler), Observe: m.Observe}
	for _, f := range change {
		f(&o)
	}
	api := server.New(o)
	m.WatchServer(api)
	m.WatchStore(s)
	m.WatchBackups(&backup.Schedule{Store: s, Every: time.Hour})
	return &rig{t, m, api, log}
}

func (r *rig) send(method, uri, body string, headers ...string) *httptest.ResponseRecorder {
	q := httptest.NewRequest(method, "http://localhost/", strings.NewReader(body))
	q.URL.Path, q.URL.RawQuery, _ = strings.Cut(uri, "?")
	if body != "" {
		q.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		q.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	r.server.ServeHTTP(w, q)
	return w
}

// scrape returns the figures as they are collected, by series.
func (r *rig) scrape() map[string]string {
	r.t.Helper()
	w := httptest.NewRecorder()
	r.figures.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		r.t.Fatalf("%d %s", w.Code, w.Body)
	}
	series := map[string]string{}
	for line := range strings.Lines(w.Body.String()) {
		if !strings.HasPrefix(line, "#") {
			at := strings.LastIndexByte(line, ' ')
			series[line[:at]] = strings.TrimSpace(line[at:])
		}
	}
	return series
}

const note = `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"n":1}},{"type":"DELETE","resource":"NOTE","resourceId":"b"}]}`

// What happens to requests is counted by what became of them.
func TestRequestsAreCounted(t *testing.T) {
	r := newRig(t, func(o *server.Options) { o.Rates.Peer = server.Rate{Requests: 12, Window: 24 * time.Hour} })
	future := time.Now().Add(time.Hour)
	r.log.Now = func() time.Time { return future }
	r.send("POST", "/v1/sync?lastMutationAt=-1", note)
	r.send("POST", "/v1/sync?lastMutationAt=-1", note)                                    // a replay
	r.send("POST", "/v1/sync?lastMutationAt=0", note)                                     // stale
	r.send("POST", "/v1/sync?lastMutationAt=9007199254740990", note)                      // ahead
	r.send("POST", "/v1/sync?lastMutationAt=0", note, "X-User-Id: new")                   // the first
	r.send("POST", "/v1/sync?lastMutationAt=-1", `{"mutations":[]}`, "X-User-Id: new")    // empty
	r.send("POST", "/v1/sync?lastMutationAt=-1", "{")                                     // refused
	pulled := r.send("GET", "/v1/sync?mutationsSince=-1", "").Body.Len()                  //
	pulled += r.send("GET", "/v1/sync?mutationsSince=0&metadataOnly=true", "").Body.Len() //
	r.send("GET", "/v1/sync?mutationsSince=9007199254740990", "")                         // ahead
	r.send("GET", "/v1/sync?mutationsSince=0", "", "Origin: http://evil.example")         // refused
	r.send("GET", "/v1/sync/limits", "")                                                  // the last that the address may
	r.send("POST", "/v1/sync?lastMutationAt=-1", note)                                    // too many
	r.send("BREW", "/coffee", "")                                                         // who knows
	r.figures.Pruned(mutlog.Pruning{Read: 5, Dropped: 3}, nil)
	r.figures.Pruned(mutlog.Pruning{}, mutlog.ErrUnavailable)
	got := r.scrape()
	for series, want := range map[string]string{
		`tidemark_pushes_total{outcome="applied"}`:                             "1",
		`tidemark_pushes_total{outcome="replayed"}`:                            "1",
		`tidemark_pushes_total{outcome="out_of_sync"}`:                         "3",
		`tidemark_pushes_total{outcome="empty"}`:                               "1",
		`tidemark_pushes_total{outcome="refused"}`:                             "1",
		`tidemark_pushes_total{outcome="limited"}`:                             "1",
		`tidemark_pushes_total{outcome="failed"}`:                              "0",
		`tidemark_mutations_total`:                                             "2",
		`tidemark_out_of_sync_total{operation="push",reason="stale_cursor"}`:   "1",
		`tidemark_out_of_sync_total{operation="push",reason="cursor_ahead"}`:   "1",
		`tidemark_out_of_sync_total{operation="push",reason="first_sync"}`:     "1",
		`tidemark_out_of_sync_total{operation="push",reason="cursor_expired"}`: "0",
		`tidemark_out_of_sync_total{operation="pull",reason="cursor_ahead"}`:   "1",
		`tidemark_rate_limited_requests_total{limit="address"}`:                "1",
		`tidemark_rate_limited_requests_total{limit="user"}`:                   "0",
		`tidemark_pulled_bytes_total`:                                          fmt.Sprint(pulled),
		`tidemark_store_commit_batches_sum`:                                    "1",
		`tidemark_retention_read_mutations_total`:                              "5",
		`tidemark_retention_dropped_mutations_total`:                           "3",
		`tidemark_retention_failures_total`:                                    "1",
		`http_server_active_requests`:                                          "0",
		`tidemark_store_failed`:                                                "0",
		`tidemark_build_info{version="v1.2.3"}`:                                "1",
		`http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="200",http_route="/v1/sync"}`: "3",
		`http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="409",http_route="/v1/sync"}`: "3",
		`http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="403",http_route="/v1/sync"}`:  "1",
		`http_server_request_duration_seconds_count{http_request_method="_OTHER",http_response_status_code="404",http_route=""}`:       "1",
	} {
		if got[series] != want {
			t.Errorf("%s is %q, want %s", series, got[series], want)
		}
	}
	for _, series := range []string{"tidemark_store_file_bytes", "tidemark_store_disk_free_bytes", "tidemark_store_queued_pushes_limit", "go_goroutines", "process_open_fds",
		"tidemark_store_sync_duration_seconds_sum"} {
		if got[series] == "" || got[series] == "0" {
			t.Errorf("%s is %q", series, got[series])
		}
	}
	if ahead := got["tidemark_head_ahead_seconds"]; !strings.HasPrefix(ahead, "35") && !strings.HasPrefix(ahead, "3600") {
		t.Errorf("a head an hour ahead: %s", ahead)
	}
	if problems, err := testutil.GatherAndLint(r.figures.registry); err != nil || len(problems) > 0 {
		t.Errorf("names: %v, %v", problems, err)
	}
}

// However many users, paths, methods and headers clients make up, there are no
// more series.
func TestFewSeries(t *testing.T) {
	r := newRig(t)
	random := rand.New(rand.NewPCG(1, 2))
	word := func() string { return fmt.Sprintf("W%x", random.Uint64()) }
	hostile := func() {
		for range 300 {
			method := []string{"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", word()}[random.IntN(7)]
			path := []string{"/", "/v1/sync", "/v1/sync/limits", "/livez", "/readyz", "/openapi.yaml", "/" + word(), "/v1/sync/" + word()}[random.IntN(8)]
			query := []string{"mutationsSince=-1", "mutationsSince=99", "mutationsSince=" + word(), "lastMutationAt=-1", "lastMutationAt=5", word() + "=" + word()}[random.IntN(6)]
			body := []string{"", note, word(), `{"mutations":[{"type":"CREATE","resource":"` + word() + `","data":{}}]}`}[random.IntN(4)]
			r.send(method, path+"?"+query, body, "X-User-Id: "+word(), "X-Client-Id: "+word(), "Idempotency-Key: "+word(), "User-Agent: "+word(), "X-Request-Id: "+word())
		}
	}
	for range 5 {
		hostile()
	}
	before := r.scrape()
	for range 15 {
		hostile()
	}
	after := r.scrape()
	if len(after) > len(before)+200 || len(after) > 2500 {
		t.Errorf("%d series, and %d after four times as many requests", len(before), len(after))
	}
	for series := range after {
		if regexp.MustCompile(`W[0-9a-f]{8}`).MatchString(series) {
			t.Errorf("a client has made up %s", series)
		}
	}
	t.Logf("%d series, then %d", len(before), len(after))
}

// described are the figures that a server can have, by name.
func described(t *testing.T) map[string]string {
	m := New("")
	m.WatchServer(server.New(server.Options{Logger: slog.New(slog.DiscardHandler)}))
	m.WatchStore(&store.Bolt{})
	other := New("")
	other.WatchStore(&store.Postgres{})
	m.WatchBackups(&backup.Schedule{})
	m.WatchWebhook(&webhook.Hook{})
	help := map[string]string{}
	for _, c := range append(m.collectors, other.collectors...) {
		descs := make(chan *prometheus.Desc, 1000)
		c.Describe(descs)
		close(descs)
		for d := range descs {
			found := regexp.MustCompile(`fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)"`).FindStringSubmatch(d.String())
			help[found[1]] = found[2]
		}
	}
	return help
}

// docs/metrics.md has each figure of this program's own, and says of it what the
// program says.
func TestMetricsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| [a-z]+ \\| [^|]* \\| ([^|]*) \\|$").FindAllStringSubmatch(string(text), -1) {
		documented[row[1]] = row[2]
	}
	want := map[string]string{}
	for name, help := range described(t) {
		if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
			want[name] = help
		}
	}
	if diff := cmp.Diff(want, documented); diff != "" {
		t.Errorf("metrics (- the program, + docs/metrics.md)\n%s", diff)
	}
}

// The dashboard and the alerts ask for figures that there are, and each alert is
// explained.
func TestDeployed(t *testing.T) {
	known := described(t)
	name := regexp.MustCompile(`\b(?:tidemark|http_server|go|process)_[a-z0-9_]+\b`)
	asks := func(where, query string) {
		t.Helper()
		asked := name.FindAllString(query, -1)
		if len(asked) == 0 && query != `up{job="tidemark"} == 0` {
			t.Errorf("%s asks for nothing: %s", where, query)
		}
		for _, q := range asked {
			base := q
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if _, ok := known[strings.TrimSuffix(q, suffix)]; ok {
					base = strings.TrimSuffix(q, suffix)
				}
			}
			if _, ok := known[base]; !ok {
				t.Errorf("%s asks for %s, which there is not", where, q)
			}
		}
		if strings.Count(query, "(") != strings.Count(query, ")") || strings.Count(query, "{") != strings.Count(query, "}") {
			t.Errorf("%s: brackets: %s", where, query)
		}
	}

	var dashboard struct {
		Panels []struct {
			ID      int
			Title   string
			Targets []struct{ Expr string }
		}
	}
	text, err := os.ReadFile("../deploy/monitoring/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &dashboard); err != nil || len(dashboard.Panels) < 10 {
		t.Fatalf("the dashboard has %d panels: %v", len(dashboard.Panels), err)
	}
	for i, p := range dashboard.Panels {
		if p.ID != i+1 || p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %d: %+v", i, p)
		}
		for _, target := range p.Targets {
			asks(p.Title, target.Expr)
		}
	}

	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	if text, err = os.ReadFile("../deploy/monitoring/alerts.yaml"); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(text, &alerts); err != nil || len(alerts.Groups) == 0 {
		t.Fatalf("the alerts: %v", err)
	}
	var names, explained []string
	for _, rule := range alerts.Groups[0].Rules {
		asks(rule.Alert, rule.Expr)
		names = append(names, rule.Alert)
		if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" {
			t.Errorf("%s says neither how bad it is nor what", rule.Alert)
		}
	}
	if text, err = os.ReadFile("../docs/metrics.md"); err != nil {
		t.Fatal(err)
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(Tidemark[A-Za-z]+)` \\| .+ \\|$").FindAllStringSubmatch(string(text), -1) {
		explained = append(explained, row[1])
	}
	if diff := cmp.Diff(names, explained); diff != "" {
		t.Errorf("alerts (- the rules, + docs/metrics.md)\n%s", diff)
	}
}

// What observing adds to a request.
func BenchmarkObserve(b *testing.B) {
	m := New("")
	x := &server.Exchange{Request: httptest.NewRequest("POST", "/", nil), Route: "/v1/sync", Status: 200, Took: time.Millisecond,
		Pushed: &mutlog.Pushed{Head: 1, Mutations: make([]mutlog.Mutation, 10)}}
	b.ReportAllocs()
	for b.Loop() {
		m.Observe(x)
	}
}
