// Package load puts load on a server over HTTP and measures how it bears it.
//
// Each connection is a closed loop: it asks, waits for the answer, and asks
// again, as fast as the server lets it. What it asks, a Device decides; Sync has
// those that push and pull like the devices of many users.
package load

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Device decides what one connection asks, and judges the answers. It is used
// by one goroutine.
type Device interface {
	// Next appends the next request to b. ok is false if there is none left.
	Next(b []byte) (request []byte, kind Kind, ok bool)

	// Answered is told the answer to that request. An error says that it is not
	// the one expected; its text is what errors are counted by.
	Answered(a *Answer) error

	// Lost is told that no answer came: the request may have been carried out.
	Lost()
}

// Options say how much load to put where, and until when.
type Options struct {
	// URL is the address of the server.
	URL *url.URL

	// Duration and Requests bound the run, whichever is first; 0 for no bound.
	Duration time.Duration
	Requests int64

	// Progress is called each ProgressEvery with what has been measured so far.
	Progress      func(*Report)
	ProgressEvery time.Duration
}

// Run puts load on a server, with one connection for each of devices, until the
// bounds of o are reached, no device has anything left to ask, or ctx is done.
// Requests under way are waited for.
func Run(ctx context.Context, o Options, devices []Device) *Report {
	r := &run{Options: o, recorder: newRecorder()}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.Duration > 0 {
		// Not a deadline of ctx, which a connection that is being opened would
		// take for its own and report as a timeout.
		defer time.AfterFunc(o.Duration, cancel).Stop()
	}
	defer context.AfterFunc(ctx, func() { r.stopped.Store(true) })()

	var wg sync.WaitGroup
	for _, d := range devices {
		wg.Go(func() { r.loop(ctx, d) })
	}
	over := make(chan struct{})
	go func() { wg.Wait(); close(over) }()
	r.watch(over)
	return r.recorder.report()
}

type run struct {
	Options
	recorder *recorder
	asked    atomic.Int64
	stopped  atomic.Bool // cheaper to ask than a context
}

func (r *run) loop(ctx context.Context, d Device) {
	c := &conn{target: r.URL}
	defer c.close()
	var request []byte
	var kind Kind
	for !r.stopped.Load() {
		if err := c.open(ctx); err != nil {
			if ctx.Err() == nil {
				r.recorder.failure("connecting", failure(err))
				pause(ctx)
			}
			continue
		}
		if r.Requests > 0 && r.asked.Add(1) > r.Requests {
			return
		}
		var ok bool
		if request, kind, ok = d.Next(request[:0]); !ok {
			return
		}
		start := time.Now()
		answer, err := c.ask(request)
		if err != nil {
			r.recorder.failure(kind.String(), failure(err))
			d.Lost()
			pause(ctx)
			continue
		}
		took := time.Since(start)
		if err := d.Answered(answer); err != nil {
			r.recorder.failure(kind.String(), err.Error())
			continue
		}
		r.recorder.success(kind, took, answer.FirstByte.Sub(start), request, len(answer.Body))
	}
}

// pause keeps a server that is away from being asked in a tight loop.
func pause(ctx context.Context) {
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
	}
}

// failure names an error of the network without the ports in it, so that equal
// ones are counted together.
func failure(err error) string {
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the server closed the connection"
	}
	return fmt.Sprintf("%.80s", err)
}

// watch calls Progress until over is closed.
func (r *run) watch(over <-chan struct{}) {
	if r.Progress == nil {
		<-over
		return
	}
	tick := time.NewTicker(r.ProgressEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.Progress(r.recorder.report())
		case <-over:
			return
		}
	}
}
