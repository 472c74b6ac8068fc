package telemetry

import (
	"context"
	"log/slog"
	"net/http"
	"os"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"tidemark/server"
)

// Traces sends a span for each request, and one for each step of a push or pull
// in it, to a collector. A request that comes with a traceparent is a part of
// that trace.
//
// Spans are made when a request has ended, of the times that were noted: so a
// server without traces has no cost, and one with them little.
type Traces struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// endpoints are the variables of which one says where traces go.
var endpoints = []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"}

// NewTraces returns the traces of a server of a version, or nil if the
// environment names no collector. It reads the variables that OpenTelemetry has
// for the exporter, the sampler and the resource, and OTEL_SDK_DISABLED.
func NewTraces(ctx context.Context, version string, logger *slog.Logger) (*Traces, error) {
	named := false
	for _, name := range endpoints {
		named = named || os.Getenv(name) != ""
	}
	if !named || os.Getenv("OTEL_SDK_DISABLED") == "true" {
		return nil, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, err
	}
	described, err := resource.New(ctx,
		resource.WithAttributes(attribute.String("service.name", "tidemark"), attribute.String("service.version", version)),
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		return nil, err
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { logger.Warn("traces are lost", "error", err) }))
	provider := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(described))
	return &Traces{provider, provider.Tracer("tidemark/server")}, nil
}

// Observe makes the spans of a request that was answered. They hold no data, no
// user and no credentials, and of the URL only the route.
func (t *Traces) Observe(x *server.Exchange) {
	r := x.Request
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(r.Header))
	method := oneOf(methods, r.Method, "_OTHER")
	name := method
	if x.Route != "" {
		name += " " + x.Route
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithTimestamp(x.Begun), trace.WithSpanKind(trace.SpanKindServer))
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(
		attribute.String("http.request.method", method),
		attribute.Int("http.response.status_code", x.Status),
		attribute.Int64("http.response.body.size", x.Size),
		attribute.String("network.protocol.version", protocolVersion(r)))
	if x.Route != "" {
		span.SetAttributes(attribute.String("http.route", x.Route))
	}
	if x.Code != "" {
		span.SetAttributes(attribute.String("error.type", x.Code))
	}
	if x.Reason != "" {
		span.SetAttributes(attribute.String("tidemark.reason", string(x.Reason)))
	}
	if p := x.Pushed; p != nil {
		span.SetAttributes(attribute.Int("tidemark.mutations", len(p.Mutations)), attribute.Bool("tidemark.replayed", p.Replayed))
	}
	if x.Status >= http.StatusInternalServerError || x.Cut {
		span.SetStatus(codes.Error, x.Code)
	}
	t.steps(ctx, x)
	span.End(trace.WithTimestamp(x.Begun.Add(x.Took)))
}

// steps makes the spans of the steps of x.
func (t *Traces) steps(ctx context.Context, x *server.Exchange) {
	if len(x.Steps) == 0 {
		return
	}
	begun := x.Begun
	for _, step := range append(x.Steps, server.Step{Name: "answer", End: x.Begun.Add(x.Took)}) {
		_, span := t.tracer.Start(ctx, step.Name, trace.WithTimestamp(begun))
		span.End(trace.WithTimestamp(step.End))
		begun = step.End
	}
}

func protocolVersion(r *http.Request) string {
	if r.ProtoMajor == 2 {
		return "2"
	}
	return "1.1"
}

// Close sends what is left, as long as ctx lets it.
func (t *Traces) Close(ctx context.Context) error { return t.provider.Shutdown(ctx) }
