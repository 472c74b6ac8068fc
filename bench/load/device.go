package load

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
)

// unknown is the head of a user that has to be asked for.
const unknown = -2

// user is what a connection knows of one of its users.
type user struct {
	head    int64
	before  int64  // the head before the last push, or unknown if there was none
	created uint32 // resources so far; their ids follow from their numbers
}

type syncDevice struct {
	*workload
	number int // of the connection
	rnd    *rand.Rand
	users  []user
	body   []byte
	retry  []byte // the last push that was applied
	last   int    // its user, or -1
	turn   int    // see pick

	// The request under way.
	kind    Kind
	current int
	created uint32
}

// Next implements Device.
func (d *syncDevice) Next(b []byte) ([]byte, Kind, bool) {
	if d.Turns > 0 && d.turn == d.Turns*len(d.users) {
		return b, Push, false
	}
	d.kind = d.choose()
	switch d.current = d.last; d.kind {
	case Push, Poll:
		d.current = d.pick()
	}
	u := &d.users[d.current]
	if u.head == unknown {
		d.kind = Poll
	}
	switch d.kind {
	case Poll:
		b = d.get(b, max(u.head, 0), "&metadataOnly=true")
	case Pull:
		b = d.get(b, max(u.before, 0), "") // not -1: a snapshot has no tombstones to count
	case Stale:
		b = d.push(b, u, u.before)
	case Push:
		b = d.push(b, u, u.head)
		d.retry = append(d.retry[:0], b...)
	case Retry:
		b = append(b, d.retry...)
	}
	return b, d.kind, true
}

// pick chooses one of the users.
func (d *syncDevice) pick() int {
	if d.Turns > 0 {
		d.turn++
		return (d.turn - 1) % len(d.users)
	}
	return d.rnd.IntN(len(d.users))
}

func (d *syncDevice) choose() Kind {
	p := d.rnd.Float64()
	if p -= d.Polls; p < 0 {
		return Poll
	}
	if d.last < 0 {
		return Push
	}
	if p -= d.Pulls; p < 0 {
		return Pull
	}
	if p -= d.Stale; p < 0 {
		return Stale
	}
	if p -= d.Retries; p < 0 {
		return Retry
	}
	return Push
}

// get appends a pull.
func (d *syncDevice) get(b []byte, since int64, more string) []byte {
	b = append(b, "GET "...)
	b = append(b, d.path...)
	b = append(b, "mutationsSince="...)
	b = strconv.AppendInt(b, since, 10)
	b = append(b, more...)
	b = d.headers(b)
	return append(b, "\r\n"...)
}

// headers appends the rest of the request line and the headers that all
// requests have.
func (d *syncDevice) headers(b []byte) []byte {
	b = append(b, d.header...)
	if d.UserPrefix != "" {
		b = append(b, "X-User-Id: "...)
		b = append(b, d.UserPrefix...)
		b = strconv.AppendInt(b, d.id(), 10)
		b = append(b, "\r\n"...)
	}
	return b
}

// id returns the number of the current user among all.
func (d *syncDevice) id() int64 { return int64(d.number + d.current*d.Connections) }

// push appends a push of new mutations.
func (d *syncDevice) push(b []byte, u *user, base int64) []byte {
	d.created = u.created
	d.body = append(d.body[:0], `{"mutations":[`...)
	for i := range d.Batch {
		if i > 0 {
			d.body = append(d.body, ',')
		}
		d.body = d.mutation(d.body)
	}
	d.body = append(d.body, "]}"...)

	b = append(b, "POST "...)
	b = append(b, d.path...)
	b = append(b, "lastMutationAt="...)
	b = strconv.AppendInt(b, base, 10)
	b = d.headers(b)
	b = append(b, "Content-Type: application/json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(d.body)), 10)
	b = append(b, "\r\n\r\n"...)
	return append(b, d.body...)
}

// Answered implements Device.
func (d *syncDevice) Answered(a *Answer) error {
	err := d.judge(a)
	if err != nil {
		d.Lost()
	}
	return err
}

// judge compares an answer with what the cursors of the user make it.
func (d *syncDevice) judge(a *Answer) error {
	if d.kind == Stale && a.Status == http.StatusConflict {
		return nil
	}
	if d.kind == Stale || a.Status != http.StatusOK {
		return unexpected(a)
	}
	head, err := strconv.ParseInt(a.Header.Get("X-Mutation-At"), 10, 64)
	if err != nil {
		return errors.New("an answer without X-Mutation-At")
	}
	mutations := bytes.Count(a.Body, []byte(`"timestamp":`))
	u := &d.users[d.current]
	switch d.kind {
	case Push:
		if mutations != d.Batch || head <= u.head {
			return errors.New("not the answer to this push")
		}
		u.before, u.head, u.created = u.head, head, d.created
		d.last = d.current
	case Retry:
		if mutations != d.Batch || head != u.head || a.Header.Get("Idempotency-Replayed") != "true" {
			return errors.New("not the first answer again")
		}
	case Pull:
		if mutations < 1 || mutations > d.Batch || head != u.head {
			return errors.New("not the changes of the last push")
		}
	case Poll:
		if head != u.head && u.head != unknown {
			return errors.New("not the head of the last push")
		}
		u.head = head
	}
	return nil
}

// unexpected names an answer by its status and code.
func unexpected(a *Answer) error {
	_, code, _ := bytes.Cut(a.Body, []byte(`"code":"`))
	code, _, _ = bytes.Cut(code, []byte{'"'})
	return fmt.Errorf("%d %.40s", a.Status, code)
}

// Lost implements Device: whether a push was applied, and on which head, has to
// be asked for.
func (d *syncDevice) Lost() {
	switch d.kind {
	case Push:
		d.last = -1 // there is nothing to send again
		fallthrough
	case Poll:
		d.users[d.current].head = unknown
	}
}
