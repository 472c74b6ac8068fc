package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/url"
)

// Sync is the load of many users who sync.
//
// Each user is owned by one connection, which chains the user's cursors: every
// push rests on the head that the push before it answered, as a device does.
type Sync struct {
	URL         *url.URL
	Users       int
	Connections int
	Batch       int // mutations in a push

	// MutationBytes is about the size of the JSON of one CREATE or UPDATE.
	MutationBytes int

	// Shares of the mutations, from 0 to 1, that change or delete an earlier
	// resource of the user; the rest are CREATEs.
	Updates, Deletes float64

	// Shares of all requests, from 0 to 1; the rest are pushes. Stale pushes,
	// retries and pulls are about the user whom the connection pushed for last,
	// polls about any.
	Pulls, Polls, Stale, Retries float64

	// UserPrefix and a number make the X-User-Id of a user; if it is empty, none
	// is sent. Token is sent as a bearer token if it is not empty.
	UserPrefix string
	Token      string

	// Fresh says that no user has a log yet. Otherwise the head of each is asked
	// for before it is first used.
	Fresh bool

	// Turns makes each connection push for its users one after the other, this
	// many times for each, and then end. 0 means at random, without an end.
	Turns int

	// Seed makes the ids of resources and the choice of users; runs with
	// different seeds never name the same resource.
	Seed uint64
}

// Devices returns a device for each connection.
func (s Sync) Devices() []Device {
	w := &workload{Sync: s, texts: NewTexts(s.MutationBytes)}
	w.path = s.URL.Path + "/v1/sync?"
	w.header = " HTTP/1.1\r\nHost: " + s.URL.Host + "\r\n"
	if s.Token != "" {
		w.header += "Authorization: Bearer " + s.Token + "\r\n"
	}
	devices := make([]Device, s.Connections)
	for i := range devices {
		d := &syncDevice{workload: w, number: i, rnd: rand.New(rand.NewPCG(s.Seed, uint64(i))), last: -1}
		d.users = make([]user, (s.Users-i+s.Connections-1)/s.Connections)
		for j := range d.users {
			d.users[j] = user{head: unknown, before: unknown}
			if s.Fresh {
				d.users[j].head = -1
			}
		}
		devices[i] = d
	}
	return devices
}

// Try asks for the head of the first user, to learn whether there is a server
// that answers as one should before load is put on it.
func (s Sync) Try(ctx context.Context) error {
	s.Connections, s.Users = 1, 1
	c := &conn{target: s.URL}
	defer c.close()
	if err := c.open(ctx); err != nil {
		return err
	}
	d := Learn(s.Devices())[0]
	request, _, _ := d.Next(nil)
	answer, err := c.ask(request)
	if err != nil {
		return fmt.Errorf("%s: %w", s.URL, err)
	}
	if err := d.Answered(answer); err != nil {
		return fmt.Errorf("%s answers a poll with %w", s.URL, err)
	}
	return nil
}

// Learn returns devices that ask for the heads of all users of devices, which
// Devices has returned, once: to know them before a measurement.
func Learn(devices []Device) []Device {
	learners := make([]Device, len(devices))
	for i, d := range devices {
		learners[i] = &learner{syncDevice: d.(*syncDevice)}
	}
	return learners
}

// workload is what the devices of one Sync share.
type workload struct {
	Sync
	path, header string
	texts        *Texts
}

// learner asks for the head of each user of a device once.
type learner struct {
	*syncDevice
	next int
}

// Next implements Device.
func (l *learner) Next(b []byte) ([]byte, Kind, bool) {
	if l.next == len(l.users) {
		return b, Poll, false
	}
	l.kind, l.current = Poll, l.next
	l.next++
	return l.get(b, 0, "&metadataOnly=true"), Poll, true
}
