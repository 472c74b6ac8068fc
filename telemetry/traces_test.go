package telemetry

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"tidemark/server"
)

// otlp is a collector that keeps what it receives.
type otlp struct {
	*httptest.Server
	mu       sync.Mutex
	spans    []*trace.Span
	services []string
	raw      bytes.Buffer
	headers  http.Header
}

func newCollector(t *testing.T) *otlp {
	c := &otlp{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			var z *gzip.Reader
			if z, err = gzip.NewReader(bytes.NewReader(body)); err == nil {
				body, err = io.ReadAll(z)
			}
		}
		var got collector.ExportTraceServiceRequest
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" || proto.Unmarshal(body, &got) != nil {
			t.Errorf("%s %s, %s: %v", r.Method, r.URL.Path, r.Header.Get("Content-Type"), err)
			http.Error(w, "what is this?", 400)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.raw.Write(body)
		c.headers = r.Header
		for _, resource := range got.ResourceSpans {
			for _, a := range resource.Resource.Attributes {
				if a.Key == "service.name" {
					c.services = append(c.services, a.Value.GetStringValue())
				}
			}
			for _, scope := range resource.ScopeSpans {
				c.spans = append(c.spans, scope.Spans...)
			}
		}
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(c.Close)
	return c
}

func attributes(s *trace.Span) map[string]any {
	all := map[string]any{}
	for _, a := range s.Attributes {
		switch v := a.Value; {
		case v.GetStringValue() != "":
			all[a.Key] = v.GetStringValue()
		default:
			all[a.Key] = v.GetIntValue()
		}
	}
	return all
}

// Where the environment names a collector, it receives a span for each request,
// with those of its steps, in the trace that the request came with.
func TestTraces(t *testing.T) {
	c := newCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=k")
	traces, err := NewTraces(t.Context(), "v1", slog.New(slog.DiscardHandler))
	if err != nil || traces == nil {
		t.Fatal(traces, err)
	}
	r := newRig(t, func(o *server.Options) { o.Observe = traces.Observe })
	const id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
	begun := time.Now()
	r.send("POST", "/v1/sync?lastMutationAt=-1&access_token=s3cr3t", strings.Replace(note, `"a"`, `"s3cr3t"`, 1), "traceparent: 00-"+id+"-"+parent+"-01",
		"X-User-Id: s3cr3t", "Authorization: Bearer s3cr3t", "X-Client-Id: s3cr3t")
	r.send("GET", "/v1/sync?mutationsSince=9007199254740990", "")
	r.send("GET", "/s3cr3t", "")
	if err := traces.Close(t.Context()); err != nil {
		t.Fatal(err)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	if bytes.Contains(c.raw.Bytes(), []byte("s3cr3t")) {
		t.Error("a span tells what a client has sent")
	}
	if c.headers.Get("X-Collector-Key") != "k" || len(c.services) == 0 || c.services[0] != "tidemark" {
		t.Errorf("key %q, services %q", c.headers.Get("X-Collector-Key"), c.services)
	}
	spans := map[string]*trace.Span{}
	for _, s := range c.spans {
		spans[s.Name] = s
	}
	push := spans["POST /v1/sync"]
	if push == nil {
		t.Fatalf("spans: %v", c.spans)
	}
	if hex.EncodeToString(push.TraceId) != id || hex.EncodeToString(push.ParentSpanId) != parent || push.Kind != trace.Span_SPAN_KIND_SERVER {
		t.Errorf("the push is in trace %s under %s, a %v", hex.EncodeToString(push.TraceId), hex.EncodeToString(push.ParentSpanId), push.Kind)
	}
	if a := attributes(push); a["http.route"] != "/v1/sync" || a["http.request.method"] != "POST" || a["http.response.status_code"] != int64(200) || a["tidemark.mutations"] != int64(2) {
		t.Errorf("the push: %v", a)
	}
	if from, to := time.Unix(0, int64(push.StartTimeUnixNano)), time.Unix(0, int64(push.EndTimeUnixNano)); from.Before(begun) || !to.After(from) || to.After(time.Now()) {
		t.Errorf("the push lasted from %v to %v", from, to)
	}
	var steps []string
	last := push.StartTimeUnixNano
	for _, s := range c.spans {
		if !bytes.Equal(s.ParentSpanId, push.SpanId) {
			continue
		}
		steps = append(steps, s.Name)
		if s.StartTimeUnixNano != last {
			t.Errorf("%s does not begin where the step before it ends", s.Name)
		}
		last = s.EndTimeUnixNano
	}
	if want := []string{"decode", "commit", "answer"}; !slices.Equal(steps, want) || last != push.EndTimeUnixNano {
		t.Errorf("steps %q, want %q", steps, want)
	}
	if a := attributes(spans["GET /v1/sync"]); a["error.type"] != "OutOfSyncError" || a["tidemark.reason"] != "cursor_ahead" || a["http.response.status_code"] != int64(409) {
		t.Errorf("the pull: %v", a)
	}
	if spans["GET"] == nil {
		t.Error("a request to no route has no span")
	}
}

// Without an endpoint, or when told so, there are no traces.
func TestNoTraces(t *testing.T) {
	for _, name := range endpoints {
		t.Setenv(name, "")
	}
	if traces, err := NewTraces(t.Context(), "", slog.New(slog.DiscardHandler)); traces != nil || err != nil {
		t.Errorf("%v, %v", traces, err)
	}
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
	t.Setenv("OTEL_SDK_DISABLED", "true")
	if traces, err := NewTraces(t.Context(), "", slog.New(slog.DiscardHandler)); traces != nil || err != nil {
		t.Errorf("%v, %v", traces, err)
	}
}
