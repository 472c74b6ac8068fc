package server

import (
	"net/http"
	"strconv"
	"sync"

	"github.com/labstack/echo/v4"

	"tidemark/mutlog"
)

// chunkSize is how much of a long answer is gathered before it is written. A
// stretch of a pull is always gathered as a whole, since nothing is written while
// the log is being read.
const chunkSize = 512 << 10

// maxBuffer is the largest buffer that is kept for another answer.
const maxBuffer = 2 << 20

var contentJSON = []string{"application/json"}

// answer writes the JSON of one answer, in chunks if it is long.
type answer struct {
	c   echo.Context
	buf []byte
}

var buffers = sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }}

// write runs fn with an answer of status 200 and sends what it has put there.
func write(c echo.Context, fn func(a *answer) error) error {
	pooled := buffers.Get().(*[]byte)
	a := &answer{c: c, buf: (*pooled)[:0]}
	defer func() {
		if cap(a.buf) <= maxBuffer { // one large answer must not keep its memory
			*pooled = a.buf
			buffers.Put(pooled)
		}
	}()
	c.Response().Header()["Content-Type"] = contentJSON
	if err := fn(a); err != nil {
		if c.Response().Committed {
			c.Set(causeKey, err)
			panic(http.ErrAbortHandler) // part of the answer is on its way: it must not look whole
		}
		return err
	}
	a.buf = append(a.buf, '\n')
	if !c.Response().Committed {
		c.Response().Header()["Content-Length"] = []string{strconv.Itoa(len(a.buf))}
	}
	return a.flush()
}

func (a *answer) text(s string) { a.buf = append(a.buf, s...) }

func (a *answer) number(n int64) { a.buf = strconv.AppendInt(a.buf, n, 10) }

// flush sends what has been gathered.
func (a *answer) flush() error {
	_, err := a.c.Response().Write(a.buf)
	a.buf = a.buf[:0]
	return err
}

// mutations appends the elements of a list of mutations.
func (a *answer) mutations(list []mutlog.Mutation, first, minimal bool) error {
	for i := range list {
		if !first || i > 0 {
			a.buf = append(a.buf, ',')
		}
		m := list[i]
		if minimal {
			m.Data = nil
		}
		a.buf = m.AppendJSON(a.buf)
		if len(a.buf) >= chunkSize {
			if err := a.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// changes appends all of a pull as a JSON array.
func (a *answer) changes(changes *mutlog.Changes) error {
	a.text("[")
	first := true
	emit := func(m *mutlog.Mutation) {
		if !first {
			a.buf = append(a.buf, ',')
		}
		first = false
		a.buf = m.AppendJSON(a.buf)
	}
	pause := func() error {
		if len(a.buf) < chunkSize {
			return nil
		}
		return a.flush()
	}
	err := changes.Each(lasting(a.c), emit, pause)
	a.text("]")
	return err
}

func (a *answer) begin(head mutlog.Timestamp) {
	a.text(`{"success":true,"data":{"lastMutationAt":`)
	a.number(int64(head))
}

func writeHead(c echo.Context, head mutlog.Timestamp) error {
	return write(c, func(a *answer) error {
		a.begin(head)
		a.text("}}")
		return nil
	})
}

func writePushed(c echo.Context, p *mutlog.Pushed, minimal bool) error {
	return write(c, func(a *answer) error {
		a.begin(p.Head)
		a.text(`,"mutations":[`)
		if err := a.mutations(p.Mutations, true, minimal); err != nil {
			return err
		}
		a.text("]")
		if p.Changes != nil {
			a.text(`,"changes":`)
			if err := a.changes(p.Changes); err != nil {
				return err
			}
		}
		a.text("}}")
		return nil
	})
}

func writeChanges(c echo.Context, changes *mutlog.Changes, q mutlog.Query) error {
	return write(c, func(a *answer) error {
		a.begin(changes.Head)
		a.text(`,"mutations":`)
		if err := a.changes(changes); err != nil {
			return err
		}
		if q.Page > 0 {
			a.text(`,"page":`)
			a.number(q.Page)
		}
		if q.Limit > 0 {
			a.text(`,"limit":`)
			a.number(int64(q.Limit))
		}
		if q.Page > 0 {
			a.text(`,"total":`)
			a.number(changes.Total)
		}
		if q.Limit > 0 {
			a.text(`,"hasMore":`)
			a.buf = strconv.AppendBool(a.buf, changes.HasMore)
		}
		if changes.HasMore && q.Page == 0 {
			a.text(`,"nextAfter":`)
			a.number(int64(changes.NextAfter))
		}
		a.text("}}")
		return nil
	})
}
