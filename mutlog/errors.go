package mutlog

import (
	"errors"
	"fmt"
)

// The refusals of a log. Every other error of this package is a fault of the
// server or of its store.
var (
	// ErrKeyReused: an Idempotency-Key came back with other mutations than
	// those it was first used for (rule 11).
	ErrKeyReused = errors.New("this Idempotency-Key was used for other mutations")

	// ErrUnavailable: the store cannot take or give anything now, or not this
	// write; nothing of it was applied, and a later try may succeed. On the wire
	// it is not told from ErrOutcomeUnknown, so that to a client it means both.
	ErrUnavailable = errors.New("the store is not available")

	// ErrOutcomeUnknown: the store failed while it made a batch durable. The
	// batch may be applied or not; a repeat of the same push finds out.
	ErrOutcomeUnknown = errors.New("the outcome of the push is unknown")

	// ErrCorrupt: what the store holds breaks an invariant or a checksum.
	ErrCorrupt = errors.New("the log is corrupt")

	// ErrLogFull: the timestamps of a log have reached 2^53 - 1.
	ErrLogFull = errors.New("the log has no timestamps left")
)

// SyntaxError says that a body is no strict JSON.
type SyntaxError struct {
	Offset int    // of the fault, in bytes from the start of the body
	Reason string // in words
}

func (e *SyntaxError) Error() string {
	return fmt.Sprintf("The body is not valid JSON: %s at byte %d", e.Reason, e.Offset)
}

// NoIndex is the index of a Fault that belongs to no single mutation.
const NoIndex = -1

// Fault is one thing that is wrong with a request that parses.
type Fault struct {
	Index   int    // of the mutation, from 0, or NoIndex
	Member  string // of the mutation, or the parameter of the query
	Message string
}

// ValidationError says that a request parses and breaks rules. It holds at
// least one fault, in the order of the request.
type ValidationError struct{ Faults []Fault }

// Error returns the message of the first fault, which is the message of the
// answer.
func (e *ValidationError) Error() string { return e.Faults[0].Message }

// ScopeError refuses a mutation of a kind that is out of the scopes of whoever
// pushes (rule 23).
type ScopeError struct {
	Index    int    // of the mutation, from 0, or NoIndex
	Resource string // its kind
	Scope    string // the one that the kind asks for
}

func (e *ScopeError) Error() string {
	what := e.Resource
	if e.Index != NoIndex {
		what += fmt.Sprintf(" at mutation[%d]", e.Index)
	}
	return fmt.Sprintf("The token lacks the scope %s, which %s needs", e.Scope, what)
}

// Reason says why a cursor was refused.
type Reason string

// The reasons of an OutOfSyncError.
const (
	// FirstSync: the log is empty and the cursor of the push is not -1.
	FirstSync Reason = "first_sync"
	// StaleCursor: the log has moved on since the cursor.
	StaleCursor Reason = "stale_cursor"
	// CursorAhead: the device has seen what this log does not have: its cursor
	// is later than the head, or in a gap.
	CursorAhead Reason = "cursor_ahead"
	// CursorExpired: the log has dropped tombstones that the device may not
	// have seen.
	CursorExpired Reason = "cursor_expired"
)

// OutOfSyncError refuses a cursor (rules 8, 12, 13, 17 and 18): the device must pull
// first. Nothing was changed.
type OutOfSyncError struct {
	Reason    Reason
	Client    Timestamp  // the cursor of the device
	Server    Timestamp  // the head of the log
	Conflicts []Conflict // of a push: what collides; nil for a pull
}

// Error returns one of the two messages that clients know.
func (e *OutOfSyncError) Error() string {
	if e.Server == Beginning {
		return "First sync detected. Please use lastMutationAt=-1 for initial sync."
	}
	return "Invalid lastMutationAt, please re-sync your data and try again."
}
