package mutlog

import (
	"errors"
	"math"
	"testing"
	"time"
)

// Rule 3: max(now, head + 1), from 1 to 2^53 - 1, whatever the clock does.
func TestNext(t *testing.T) {
	const now = 1731636500303
	tests := []struct {
		name string
		now  int64
		head Timestamp
		n    int
		want Timestamp // 0: ErrLogFull
	}{
		{"an empty log", now, Beginning, 1, now},
		{"the clock is ahead of the head", now, now - 1000, 100, now},
		{"the clock has moved by one", now, now - 1, 1, now},
		{"the clock stands still", now, now, 1, now + 1},
		{"the clock jumped back an hour", now - 3600_000, now, 3, now + 1},
		{"the clock jumped back before 1970", -5, now, 1, now + 1},
		{"1970 in an empty log", 0, Beginning, 1, 1},
		{"before 1970 in an empty log", -5, Beginning, 1, 1},
		{"the largest that fits", int64(MaxTimestamp), 7, 1, MaxTimestamp},
		{"the largest batch that fits", int64(MaxTimestamp) - 9, 7, 10, MaxTimestamp - 9},
		{"a clock beyond 2^53", 1 << 53, now, 2, now + 1},
		{"a clock beyond 2^53 in an empty log", 1 << 53, Beginning, 2, 1},
		{"a clock at the end of time", math.MaxInt64, 5, 2, 6},
		{"a clock so near 2^53 that the batch does not fit", int64(MaxTimestamp), now, 2, now + 1},
		{"the last timestamp", now, MaxTimestamp - 1, 1, MaxTimestamp},
		{"one too many", now, MaxTimestamp - 1, 2, 0},
		{"a full log", now, MaxTimestamp, 1, 0},
	}
	for _, test := range tests {
		got, err := next(time.UnixMilli(test.now), test.head, test.n)
		if test.want == 0 {
			if !errors.Is(err, ErrLogFull) {
				t.Errorf("%s: got %d, %v, want ErrLogFull", test.name, got, err)
			}
		} else if got != test.want || err != nil {
			t.Errorf("%s: got %d, %v, want %d", test.name, got, err, test.want)
		}
	}
}
