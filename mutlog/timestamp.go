package mutlog

import (
	"strconv"
	"time"
)

// Timestamp is the time of a mutation in integer Unix milliseconds, and with
// that its place in the log of its user: every mutation of a log has one of its
// own, and they strictly increase (rule 3). A cursor is the timestamp up to
// which a device knows the log; the head of a log is the timestamp of its
// newest mutation.
type Timestamp int64

const (
	// Beginning is the place before the first mutation: the head of an empty
	// log, and the cursor of a device that holds nothing.
	Beginning Timestamp = -1

	// MaxTimestamp is the largest timestamp there is: 2^53 - 1, so that clients
	// whose numbers are doubles read every timestamp exactly.
	MaxTimestamp Timestamp = 1<<53 - 1
)

// String returns the decimal text of t, as it stands on the wire.
func (t Timestamp) String() string { return strconv.FormatInt(int64(t), 10) }

// next returns the timestamp of the first mutation of a batch that is applied
// at now on top of a head or a gap (rules 3 and 17), or ErrLogFull if n mutations
// do not fit below 2^53. A clock that stands still, jumps back, or is out of the
// range of timestamps never breaks the order.
func next(now time.Time, head Timestamp, n int) (Timestamp, error) {
	last := MaxTimestamp - Timestamp(n) + 1
	t := max(Timestamp(now.UnixMilli()), head+1, 1)
	if t > last {
		t = max(head+1, 1)
	}
	if t > last {
		return 0, ErrLogFull
	}
	return t, nil
}
