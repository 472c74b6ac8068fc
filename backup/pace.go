package backup

import (
	"context"
	"io"
	"os"
	"time"
)

// pace bounds how fast bytes pass.
type pace struct {
	ctx   context.Context
	rate  int64 // bytes per second; 0 means no bound
	began time.Time
}

func newPace(ctx context.Context, rate int64) *pace {
	return &pace{ctx: ctx, rate: rate, began: time.Now()}
}

// wait returns when so many bytes in all may have passed.
func (p *pace) wait(done int64) error {
	if p.rate == 0 {
		return p.ctx.Err()
	}
	due := p.began.Add(time.Duration(float64(done) / float64(p.rate) * float64(time.Second)))
	if early := time.Until(due); early > 0 {
		select {
		case <-time.After(early):
		case <-p.ctx.Done():
		}
	}
	return p.ctx.Err()
}

// syncEvery is after how many bytes a copy is synced. A sync of the store waits
// for what the operating system has to write before it: little by little is
// hardly felt, all at once would hold up pushes.
const syncEvery = 8 << 20

// lookShare is how much faster than it is copied a store may be looked through for
// what has changed meanwhile.
const lookShare = 8

// pacedWriter writes to a file, or else a Writer, not faster than pace, and
// syncs a file now and then.
type pacedWriter struct {
	io.Writer
	file     *os.File
	pace     *pace
	progress func(done, total int64)

	done, total, synced int64
}

func (w *pacedWriter) Write(p []byte) (n int, err error) {
	if w.file != nil {
		w.Writer = w.file
	}
	n, err = w.Writer.Write(p)
	w.done += int64(n)
	if err == nil && w.file != nil && w.done-w.synced >= syncEvery {
		w.synced = w.done
		err = w.file.Sync()
	}
	w.progress(w.done, w.total)
	if err == nil {
		err = w.pace.wait(w.done)
	}
	return n, err
}
