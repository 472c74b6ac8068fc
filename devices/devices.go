// Package devices remembers what each device of a user did last, so that an
// operator can tell why one does not sync: when it was seen, up to where it
// knows the log, and with what it was refused. A device is a value of
// x-client-id; all that send none are one device.
//
// It is what a server happened to see, and no part of any promise: a crash
// forgets the last minutes, and of a user with very many devices only those seen
// last are kept.
package devices

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"tidemark/mutlog"
)

// Device is what is known of one device.
type Device struct {
	Client    string           `json:"client"` // its x-client-id, or ""
	FirstSeen time.Time        `json:"firstSeen"`
	LastSeen  time.Time        `json:"lastSeen"`
	Cursor    mutlog.Timestamp `json:"cursor"` // up to which it knows the log, as far as its requests and their answers tell
	Counts
	LastRefusal *Refusal `json:"lastRefusal,omitempty"` // nil if it was never refused
}

// Counts is how many requests of each kind a device has made: every one is a
// push or a pull, and may have been replayed or refused.
type Counts struct {
	Pushes   int64 `json:"pushes"`
	Pulls    int64 `json:"pulls"`
	Replays  int64 `json:"replays"`
	Refusals int64 `json:"refusals"`
}

// Refusal is an error that a device was answered with.
type Refusal struct {
	At     time.Time        `json:"at"`
	Status int              `json:"status"`           // of HTTP
	Code   string           `json:"code"`             // as openapi.yaml has them
	Reason mutlog.Reason    `json:"reason,omitempty"` // of an OutOfSyncError
	Cursor mutlog.Timestamp `json:"cursor"`           // that the device came with
}

// Event is a request of a device that was answered.
type Event struct {
	Push     bool             // else a pull
	Cursor   mutlog.Timestamp // that it came with
	Level    mutlog.Timestamp // up to which the device knows the log with the answer; not if it was refused
	Replayed bool
	Refusal  *Refusal // or nil; the tracker sets its time
}

// add counts e, at now.
func (d *Device) add(e *Event, now time.Time) {
	d.LastSeen, d.Cursor = now, e.Level
	if e.Push {
		d.Pushes++
	} else {
		d.Pulls++
	}
	if e.Replayed {
		d.Replays++
	}
	if e.Refusal != nil {
		d.Refusals++
		d.LastRefusal, d.Cursor = e.Refusal, e.Cursor
	}
}

// merge returns what is known of devices together with what was seen of them
// later, those that were seen last first, and at most maxDevices.
func merge(known, seen []Device) []Device {
	all := slices.Clone(known)
	for _, s := range seen {
		i := slices.IndexFunc(all, func(d Device) bool { return d.Client == s.Client })
		if i < 0 {
			all = append(all, s)
			continue
		}
		d := &all[i]
		d.Pushes += s.Pushes
		d.Pulls += s.Pulls
		d.Replays += s.Replays
		d.Refusals += s.Refusals
		if s.LastSeen.Before(d.LastSeen) {
			continue // another server has seen it since
		}
		d.LastSeen, d.Cursor = s.LastSeen, s.Cursor
		if s.LastRefusal != nil {
			d.LastRefusal = s.LastRefusal
		}
	}
	slices.SortFunc(all, func(a, b Device) int {
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), strings.Compare(a.Client, b.Client))
	})
	return all[:min(len(all), maxDevices)]
}

// maxDevices bounds how many devices of a user are known: whoever makes up names
// fills no disk.
const maxDevices = 32
