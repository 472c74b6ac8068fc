package devices_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/devices"
	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// newTracker returns a tracker whose clock is set by hand.
func newTracker(t *testing.T, records devices.Records) (*devices.Tracker, *mutlogtest.Clock) {
	clock := new(mutlogtest.Clock)
	tracker := devices.NewTracker(records, slog.New(slog.NewTextHandler(t.Output(), nil)))
	tracker.Now = clock.Now
	return tracker, clock
}

func known(t *testing.T, tracker *devices.Tracker, user mutlog.User) []devices.Device {
	t.Helper()
	list, err := tracker.Devices(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// What was seen is known at once, is added to what the records say, and is the
// same after a restart.
func TestDevices(t *testing.T) {
	store := mutlogtest.NewStore()
	tracker, clock := newTracker(t, store)
	clock.Set(1000)
	tracker.Seen("alice", "phone", devices.Event{Cursor: -1, Level: 7})
	tracker.Seen("alice", "phone", devices.Event{Push: true, Cursor: 7, Level: 9})
	tracker.Seen("bob", "", devices.Event{Cursor: -1, Level: -1})
	tracker.Flush(t.Context())
	clock.Set(2000)
	tracker.Seen("alice", "phone", devices.Event{Push: true, Cursor: 7, Level: 9, Replayed: true})
	tracker.Seen("alice", "phone", devices.Event{Push: true, Cursor: 5,
		Refusal: &devices.Refusal{Status: 409, Code: "OutOfSyncError", Reason: mutlog.StaleCursor, Cursor: 5}})
	clock.Set(3000)
	tracker.Seen("alice", "tablet", devices.Event{Cursor: 9, Level: 9})

	want := []devices.Device{
		{Client: "tablet", FirstSeen: at(3000), LastSeen: at(3000), Cursor: 9, Counts: devices.Counts{Pulls: 1}},
		{Client: "phone", FirstSeen: at(1000), LastSeen: at(2000), Cursor: 5, Counts: devices.Counts{Pushes: 3, Pulls: 1, Replays: 1, Refusals: 1},
			LastRefusal: &devices.Refusal{At: at(2000), Status: 409, Code: "OutOfSyncError", Reason: mutlog.StaleCursor, Cursor: 5}},
	}
	if diff := cmp.Diff(want, known(t, tracker, "alice")); diff != "" {
		t.Errorf("before it is written (- want, + got)\n%s", diff)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tracker.Run(ctx) // the end of a server
	again, _ := newTracker(t, store)
	if diff := cmp.Diff(want, known(t, again, "alice")); diff != "" {
		t.Errorf("after a restart (- want, + got)\n%s", diff)
	}
	if list := known(t, again, "bob"); len(list) != 1 || list[0].Client != "" {
		t.Errorf("bob has %+v", list)
	}
	if list := known(t, again, "carol"); len(list) != 0 {
		t.Errorf("carol has %+v", list)
	}
}

// Two servers on one store see a part each, in whatever order they write it.
func TestTwoServers(t *testing.T) {
	store := mutlogtest.NewStore()
	one, clockOne := newTracker(t, store)
	two, clockTwo := newTracker(t, store)
	clockOne.Set(1000)
	one.Seen("alice", "phone", devices.Event{Cursor: 3, Level: 4})
	clockTwo.Set(2000)
	two.Seen("alice", "phone", devices.Event{Cursor: 4, Level: 8})
	two.Flush(t.Context())
	one.Flush(t.Context())
	got := known(t, one, "alice")
	if len(got) != 1 || got[0].Cursor != 8 || got[0].LastSeen != at(2000) || got[0].Pulls != 2 {
		t.Errorf("together they know %+v", got)
	}
}

// Whoever makes up users and devices fills neither memory nor disk, and those
// that were seen last stay.
func TestBounds(t *testing.T) {
	store := mutlogtest.NewStore()
	tracker, clock := newTracker(t, store)
	for i := range 200 {
		clock.Set(int64(i))
		tracker.Seen("mallory", fmt.Sprint(i), devices.Event{})
		if i%20 == 19 {
			tracker.Flush(t.Context())
		}
	}
	if list := known(t, tracker, "mallory"); len(list) != 32 || list[0].Client != "199" {
		t.Errorf("%d devices are known, the newest is %+v", len(list), list[0])
	}
	for i := range 100_000 {
		tracker.Seen(mutlog.User(fmt.Sprint(i)), "phone", devices.Event{})
	}
	tracker.Flush(t.Context())
	written := 0
	for _, err := range store.Records(t.Context(), "device", "") {
		if written++; err != nil {
			t.Fatal(err)
		}
	}
	if written < 10_000 || written > 40_000 {
		t.Errorf("between two flushes %d of 100001 users were remembered", written)
	}
}

// What was seen of a user who is erased does not come back.
func TestForget(t *testing.T) {
	store := mutlogtest.NewStore()
	tracker, _ := newTracker(t, store)
	tracker.Seen("alice", "phone", devices.Event{})
	tracker.Forget("alice")
	tracker.Flush(t.Context())
	if list := known(t, tracker, "alice"); len(list) != 0 {
		t.Errorf("alice has %+v", list)
	}
}

// Nor does what another server has seen of that user before, and has still to
// write; what it sees afterwards is known.
func TestForgetElsewhere(t *testing.T) {
	store := mutlogtest.NewStore()
	tracker, clock := newTracker(t, store)
	clock.Set(1000)
	tracker.Seen("alice", "phone", devices.Event{})
	tracker.Seen("bob", "phone", devices.Event{})
	if err := store.Erase(t.Context(), "alice", 2000, func(int) {}); err != nil {
		t.Fatal(err)
	}
	tracker.Flush(t.Context())
	if record, err := store.Record(t.Context(), mutlog.RecordKey{Kind: "device", Owner: "alice"}); err != nil || record != nil {
		t.Errorf("alice has %q, %v", record, err)
	}
	if list := known(t, tracker, "bob"); len(list) != 1 {
		t.Errorf("bob has %+v", list)
	}
	clock.Set(3000)
	tracker.Seen("alice", "tablet", devices.Event{})
	tracker.Flush(t.Context())
	if list := known(t, tracker, "alice"); len(list) != 1 || list[0].Client != "tablet" {
		t.Errorf("alice has %+v", list)
	}
}

// A store that fails loses what was seen, and nothing else.
func TestStoreFails(t *testing.T) {
	store := &failing{Records: mutlogtest.NewStore(), err: mutlog.ErrUnavailable}
	tracker, _ := newTracker(t, store)
	tracker.Seen("alice", "phone", devices.Event{})
	tracker.Flush(t.Context())
	store.err = nil
	tracker.Seen("alice", "tablet", devices.Event{})
	if list := known(t, tracker, "alice"); len(list) != 1 || list[0].Client != "tablet" {
		t.Errorf("alice has %+v", list)
	}
}

type failing struct {
	devices.Records
	err error
}

func (f *failing) UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func([]byte) ([]byte, error)) error {
	if f.err != nil {
		return f.err
	}
	return f.Records.UpdateRecord(ctx, key, fn)
}

// Many requests at a time lose no count.
func TestConcurrent(t *testing.T) {
	store := mutlogtest.NewStore()
	tracker, _ := newTracker(t, store)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1000 {
				tracker.Seen("alice", fmt.Sprint(i%3), devices.Event{Push: i%2 == 0})
				if i%100 == 0 {
					tracker.Flush(t.Context())
				}
			}
		})
	}
	wg.Wait()
	pushes, pulls := int64(0), int64(0)
	for _, d := range known(t, tracker, "alice") {
		pushes, pulls = pushes+d.Pushes, pulls+d.Pulls
	}
	if pushes != 4000 || pulls != 4000 {
		t.Errorf("of 8000 requests %d pushes and %d pulls are known", pushes, pulls)
	}
}

// A request of a device that is known costs no memory.
func TestSeenAllocates(t *testing.T) {
	tracker, _ := newTracker(t, mutlogtest.NewStore())
	e := devices.Event{Push: true, Cursor: 1, Level: 2}
	tracker.Seen("alice", "phone", e)
	if n := testing.AllocsPerRun(100, func() { tracker.Seen("alice", "phone", e) }); n > 0 {
		t.Errorf("it makes %v allocations", n)
	}
}
