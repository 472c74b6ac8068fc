package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"

	"github.com/google/uuid"

	"tidemark/bench/load"
)

// get is a device that asks for the same over and over.
type get struct {
	kind   load.Kind
	size   int // of the answer, or anySize
	before string
	users  int // of whom each request names one at random; 0 if before names it
	after  string
	rnd    *rand.Rand
}

const anySize = -1

// gets returns devices that ask for path as one of many users.
func gets(u *url.URL, connections, users int, path string, kind load.Kind, size int) []load.Device {
	devices := make([]load.Device, connections)
	for i := range devices {
		devices[i] = &get{
			kind: kind, size: size, users: users, rnd: rand.New(rand.NewPCG(1, uint64(i))),
			before: "GET " + path + " HTTP/1.1\r\nHost: " + u.Host + "\r\nX-User-Id: user-", after: "\r\n\r\n",
		}
	}
	return devices
}

// getsOf returns devices that ask for path as one user.
func getsOf(u *url.URL, connections int, user, path string, kind load.Kind, size int) []load.Device {
	devices := make([]load.Device, connections)
	for i := range devices {
		devices[i] = &get{kind: kind, size: size, before: "GET " + path + " HTTP/1.1\r\nHost: " + u.Host + "\r\nX-User-Id: " + user, after: "\r\n\r\n"}
	}
	return devices
}

// Next implements load.Device.
func (d *get) Next(b []byte) ([]byte, load.Kind, bool) {
	b = append(b, d.before...)
	if d.users > 0 {
		b = strconv.AppendInt(b, int64(d.rnd.IntN(d.users)), 10)
	}
	return append(b, d.after...), d.kind, true
}

// Answered implements load.Device.
func (d *get) Answered(a *load.Answer) error {
	if a.Status != http.StatusOK || d.size != anySize && len(a.Body) != d.size {
		return fmt.Errorf("%d with %d bytes instead of %d", a.Status, len(a.Body), d.size)
	}
	return nil
}

// Lost implements load.Device.
func (d *get) Lost() {}

// creates is a device that creates records in PocketBase, many in a request:
// what it sends has the same members as the mutations that tidemark gets.
type creates struct {
	header string
	users  int
	batch  int
	rnd    *rand.Rand
	texts  *load.Texts
	body   []byte
}

func pocketbaseDevices(u *url.URL, users, batch int) []load.Device {
	texts := load.NewTexts(250)
	devices := make([]load.Device, connections)
	for i := range devices {
		devices[i] = &creates{
			header: "POST /api/batch HTTP/1.1\r\nHost: " + u.Host + "\r\nContent-Type: application/json\r\nContent-Length: ",
			users:  users, batch: batch, texts: texts, rnd: rand.New(rand.NewPCG(1, uint64(i))),
		}
	}
	return devices
}

// Next implements load.Device.
func (d *creates) Next(b []byte) ([]byte, load.Kind, bool) {
	user := d.rnd.IntN(d.users)
	d.body = append(d.body[:0], `{"requests":[`...)
	for i := range d.batch {
		if i > 0 {
			d.body = append(d.body, ',')
		}
		d.body = fmt.Appendf(d.body, `{"method":"POST","url":"/api/collections/mutations/records","body":`+
			`{"user":"user-%d","type":"CREATE","resource":"NOTE","resourceId":"%s","data":%s}}`,
			user, uuid.NewString(), d.texts.Create(d.rnd))
	}
	d.body = append(d.body, "]}"...)
	b = append(b, d.header...)
	b = strconv.AppendInt(b, int64(len(d.body)), 10)
	b = append(b, "\r\n\r\n"...)
	return append(b, d.body...), load.Push, true
}

// Answered implements load.Device.
func (d *creates) Answered(a *load.Answer) error {
	if done := bytes.Count(a.Body, []byte(`"status":200`)); a.Status != http.StatusOK || done != d.batch {
		return fmt.Errorf("%d with %d of %d records", a.Status, done, d.batch)
	}
	return nil
}

// Lost implements load.Device.
func (d *creates) Lost() {}
