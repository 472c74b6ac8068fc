package load

import (
	"bytes"
	"maps"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Kind is what a request is meant to do.
type Kind uint8

// The kinds of requests.
const (
	Push  Kind = iota // a push that is applied
	Pull              // a pull of what the newest push changed
	Poll              // a pull of metadata only
	Stale             // a push on an old cursor, to be refused
	Retry             // a push that was applied already, to be replayed
	kinds
)

var kindNames = [kinds]string{"push", "pull", "poll", "stale", "retry"}

func (k Kind) String() string { return kindNames[k] }

// Report is what a run has measured.
type Report struct {
	Seconds    float64           `json:"seconds"`
	Requests   int64             `json:"requests"`
	PerSecond  float64           `json:"requestsPerSecond"`
	SentBytes  int64             `json:"sentBytes"`
	GotBytes   int64             `json:"receivedBytes"`
	Pushed     int64             `json:"pushedBytes"` // bodies of the pushes that were applied
	Kinds      map[string]Figure `json:"kinds"`
	Errors     map[string]int64  `json:"errors"` // by kind and cause
	ErrorCount int64             `json:"errorCount"`
}

// Figure is what a run has measured of the requests of one kind that were
// answered as they should be.
type Figure struct {
	Requests  int64   `json:"requests"`
	PerSecond float64 `json:"perSecond"`
	Latency   Latency `json:"latencyMillis"`
	FirstByte Latency `json:"firstByteMillis"`
}

// Latency is a distribution of times in milliseconds.
type Latency struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

// recorder gathers what all connections measure. One lock for all of them costs
// less than the memory of a histogram for each.
type recorder struct {
	mu        sync.Mutex
	start     time.Time
	sent, got int64
	pushed    int64
	times     [kinds]*hdrhistogram.Histogram
	first     [kinds]*hdrhistogram.Histogram
	errors    map[string]int64
}

func newRecorder() *recorder {
	return &recorder{start: time.Now(), errors: map[string]int64{}}
}

func (r *recorder) success(kind Kind, took, firstByte time.Duration, request []byte, got int) {
	body := 0
	if kind == Push {
		_, b, _ := bytes.Cut(request, []byte("\r\n\r\n"))
		body = len(b)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.times[kind] == nil {
		r.times[kind], r.first[kind] = newHistogram(), newHistogram()
	}
	r.times[kind].RecordValue(took.Microseconds()) // it fits: an answer cannot take longer than timeout
	r.first[kind].RecordValue(firstByte.Microseconds())
	r.sent += int64(len(request))
	r.got += int64(got)
	r.pushed += int64(body)
}

func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, 2*timeout.Microseconds(), 3)
}

func (r *recorder) failure(what, cause string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors[what+": "+cause]++
}

func (r *recorder) report() *Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	seconds := time.Since(r.start).Seconds()
	rep := &Report{Seconds: seconds, SentBytes: r.sent, GotBytes: r.got, Pushed: r.pushed,
		Kinds: map[string]Figure{}, Errors: maps.Clone(r.errors)}
	for kind, h := range r.times {
		if h == nil {
			continue
		}
		n := h.TotalCount()
		rep.Requests += n
		rep.Kinds[Kind(kind).String()] = Figure{n, float64(n) / seconds, latency(h), latency(r.first[kind])}
	}
	rep.PerSecond = float64(rep.Requests) / seconds
	for _, n := range r.errors {
		rep.ErrorCount += n
	}
	return rep
}

func latency(h *hdrhistogram.Histogram) Latency {
	at := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) / 1000 }
	return Latency{at(50), at(90), at(99), at(99.9), float64(h.Max()) / 1000}
}
