package events

import (
	"math/rand/v2"
	"strconv"
	"time"

	"tidemark/mutlog"
)

// The times that a client is told to wait before it comes back. Each gets one
// of its own, so that a fleet that has lost its server does not return at once.
const (
	retryLeast  = 1 * time.Second // after a connection was lost
	retryMost   = 3 * time.Second
	spreadLeast = 1 * time.Second // after the server has said goodbye
	spreadMost  = 6 * time.Second
)

// comment is what a stream says to say nothing.
var comment = []byte(":\n\n")

// appendHead appends the event that tells a head.
func appendHead(b []byte, head mutlog.Timestamp) []byte {
	b = append(b, "event: head\nid: "...)
	b = strconv.AppendInt(b, int64(head), 10)
	b = append(b, "\ndata: {\"lastMutationAt\": "...)
	b = strconv.AppendInt(b, int64(head), 10)
	return append(b, "}\n\n"...)
}

// appendRetry appends the time to wait before coming back, at random between
// least and most.
func appendRetry(b []byte, least, most time.Duration) []byte {
	d := least + rand.N(most-least)
	b = append(b, "retry: "...)
	b = strconv.AppendInt(b, d.Milliseconds(), 10)
	return append(b, "\n\n"...)
}
