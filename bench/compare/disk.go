package main

import (
	"bytes"
	"context"
	"os"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// writes measures what any durable write costs at least: 4 KiB over data that is
// there, so that the file system has nothing to write but them.
func writes(ctx context.Context, b *bench, name string) error {
	const page, pages = 4 << 10, 1 << 12
	f, err := os.Create(b.path("writes"))
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if _, err := f.Write(make([]byte, page*pages)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	data := bytes.Repeat([]byte{1}, page)
	return b.repeat(ctx, name, func(n int64) error {
		if _, err := f.WriteAt(data, n%pages*page); err != nil {
			return err
		}
		return dataSync(f)
	})
}

// appends measures the simplest durable log there can be: one writer, who adds
// one push to a file and waits for the disk.
func appends(ctx context.Context, b *bench, name string) error {
	f, err := os.Create(b.path("appends"))
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	data := bytes.Repeat([]byte{1}, 2500)
	return b.repeat(ctx, name, func(int64) error {
		if _, err := f.Write(data); err != nil {
			return err
		}
		return dataSync(f)
	})
}

// repeat measures how long something takes.
func (b *bench) repeat(ctx context.Context, name string, something func(n int64) error) error {
	h := hdrhistogram.New(1, int64(time.Minute/time.Microsecond), 3)
	begin := time.Now()
	for n := int64(0); time.Since(begin) < b.length && ctx.Err() == nil; n++ {
		start := time.Now()
		if err := something(n); err != nil {
			return err
		}
		h.RecordValue(time.Since(start).Microseconds())
	}
	ms := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) / 1000 }
	b.note(name, figure{perSecond: float64(h.TotalCount()) / time.Since(begin).Seconds(), p50: ms(50), p99: ms(99)})
	return ctx.Err()
}
