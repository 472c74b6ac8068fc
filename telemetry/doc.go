// Package telemetry tells operators how a server fares: figures in the format of
// Prometheus, and traces over OTLP. docs/metrics.md has each of the figures.
//
// The names follow the conventions of Prometheus, and those of OpenTelemetry
// where it has some, as for requests. A label has one of a few values that this
// package or the route table know; nothing that a client can make up becomes
// one, so that nobody can fill a server's memory, or that of whoever collects
// the figures, with new series.
package telemetry
