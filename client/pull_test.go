package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tidemark/client"
	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/server"
	"tidemark/store/storetest"
)

var ctx = context.Background()

// newClient returns a client of a server with an empty log, and calls
// beforeRequest, if it is set, before each of its requests but those it makes
// itself.
func newClient(t *testing.T, beforeRequest *func()) *client.Client {
	t.Helper()
	logs := storetest.Open(t)
	api := httptest.NewServer(server.New(server.Options{
		Log:          mutlog.New(logs, mutlog.DefaultLimits),
		Limits:       mutlog.DefaultLimits,
		MaxBodyBytes: 1 << 20,
		Logger:       slog.New(slog.DiscardHandler),
	}))
	t.Cleanup(func() {
		api.Close()
		if err := logs.Close(); err != nil {
			t.Error(err)
		}
	})
	inHook := false
	c, err := client.New(api.URL, client.WithHTTPClient(&http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		if beforeRequest != nil && *beforeRequest != nil && !inHook {
			inHook = true
			(*beforeRequest)()
			inHook = false
		}
		return http.DefaultTransport.RoundTrip(r)
	})}))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func note(kind mutlog.Type, id, data string) mutlog.Mutation {
	m := mutlog.Mutation{Type: kind, Resource: "NOTE", ResourceID: id}
	if data != "" {
		m.Data = []byte(data)
	}
	return m
}

// pushOnHead pushes mutations on whatever the head is.
func pushOnHead(t *testing.T, c *client.Client, mutations ...mutlog.Mutation) mutlog.Timestamp {
	t.Helper()
	head, err := c.Head(ctx)
	if err != nil {
		t.Fatal(err)
	}
	pushed, err := c.Push(ctx, client.Push{Base: head, Mutations: mutations})
	if err != nil {
		t.Fatal(err)
	}
	return pushed.Head
}

// device is what a client of this package keeps: rows, and the cursor.
type device struct {
	cursor mutlog.Timestamp
	rows   map[mutlog.Ref]string
}

// pull brings d up to date; -1 is the snapshot, which is the whole truth.
func (d *device) pull(t *testing.T, c *client.Client, size int) {
	t.Helper()
	if d.cursor == mutlog.Beginning {
		d.rows = map[mutlog.Ref]string{}
	}
	changes := c.Pull(ctx, client.Query{Since: d.cursor, PageSize: size})
	for m, err := range changes.All() {
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == mutlog.Delete {
			delete(d.rows, m.Ref())
		} else {
			d.rows[m.Ref()] = string(m.Data)
		}
	}
	head, ok := changes.Head()
	if !ok {
		t.Fatal("no head after a pull that has ended")
	}
	d.cursor = head
}

// The trap of a snapshot in pages: what the first page gives is deleted before
// the second, which has no tombstone for it. A device that adopts the head of
// the last page keeps it for ever.
func TestSnapshotAdoptsFirstHead(t *testing.T) {
	var hook func()
	c := newClient(t, &hook)
	first := pushOnHead(t, c, note(mutlog.Create, "a", `{}`), note(mutlog.Create, "b", `{}`), note(mutlog.Create, "c", `{}`))
	requests := 0
	var last mutlog.Timestamp
	hook = func() {
		if requests++; requests == 2 {
			last = pushOnHead(t, c, note(mutlog.Delete, "a", ""), note(mutlog.Update, "c", `{"n":1}`))
		}
	}
	d := &device{cursor: mutlog.Beginning}
	d.pull(t, c, 2)
	if d.cursor != first {
		t.Errorf("the cursor is %d, want that of the first page, %d; the last page had %d", d.cursor, first, last)
	}
	d.pull(t, c, 2)
	want := map[mutlog.Ref]string{{Resource: "NOTE", ResourceID: "b"}: `{}`, {Resource: "NOTE", ResourceID: "c"}: `{"n":1}`}
	if diff := cmp.Diff(want, d.rows); diff != "" || d.cursor != last {
		t.Errorf("the cursor is %d, want %d: %s", d.cursor, last, diff)
	}
}

// Changes have tombstones: at the end of the pages the device is level with the
// last of them, and may push on it.
func TestChangesAdoptLastHead(t *testing.T) {
	for _, q := range []client.Query{{Since: 0, PageSize: 2}, {Since: mutlog.Beginning, PageSize: 2, History: true}, {Since: 0, PageSize: 2, Resources: []string{"TAG"}}} {
		var hook func()
		c := newClient(t, &hook)
		pushOnHead(t, c, note(mutlog.Create, "a", `{}`), note(mutlog.Create, "b", `{}`), note(mutlog.Create, "c", `{}`),
			mutlog.Mutation{Type: mutlog.Delete, Resource: "TAG", ResourceID: "a"}, mutlog.Mutation{Type: mutlog.Delete, Resource: "TAG", ResourceID: "b"},
			mutlog.Mutation{Type: mutlog.Delete, Resource: "TAG", ResourceID: "c"})
		requests := 0
		var last mutlog.Timestamp
		hook = func() {
			if requests++; requests == 2 {
				last = pushOnHead(t, c, note(mutlog.Delete, "a", ""))
			}
		}
		changes := c.Pull(ctx, q)
		for _, err := range changes.All() {
			if _, ok := changes.Head(); err != nil || ok {
				t.Fatalf("%v, and while there is more a head: %v", err, ok)
			}
		}
		if head, ok := changes.Head(); !ok || head != last {
			t.Errorf("%+v: the head is %d %v, want %d", q, head, ok, last)
		}
	}
}

// Rule 15, from the device's side: others push between all pages of all pulls,
// and a device that adopts what Head says is level once they stop. Nothing is
// ever missing from it that its cursor says it has.
func TestDevicesConvergeBetweenPages(t *testing.T) {
	random := rand.New(rand.NewPCG(mutlogtest.Seed(t), 1))
	var hook func()
	c := newClient(t, &hook)
	pushes := 0
	writer := &mutlogtest.Writer{Rand: random, Resources: 40}
	hook = func() {
		if random.IntN(2) == 0 {
			pushes++
			pushOnHead(t, c, writer.Mutations(1+random.IntN(3))...)
		}
	}
	devices := []*device{{cursor: mutlog.Beginning}, {cursor: 0, rows: map[mutlog.Ref]string{}}}
	for range 60 {
		for _, d := range devices {
			d.pull(t, c, 3+random.IntN(9)) // faster than the others push, or it would never end
		}
		if random.IntN(4) == 0 {
			devices = append(devices[:2], &device{cursor: mutlog.Beginning}, &device{rows: map[mutlog.Ref]string{}})
		}
	}
	hook = nil
	truth := &device{cursor: mutlog.Beginning}
	truth.pull(t, c, 1000)
	for i, d := range devices {
		d.pull(t, c, 3)
		if diff := cmp.Diff(truth.rows, d.rows); diff != "" || d.cursor != truth.cursor {
			t.Errorf("device %d is at %d of %d: %s", i, d.cursor, truth.cursor, diff)
		}
	}
	if pushes < 30 || len(truth.rows) == 0 {
		t.Errorf("%d pushes, %d rows: that was too easy", pushes, len(truth.rows))
	}
}

// A pull that its reader leaves has no head.
func TestPullLeft(t *testing.T) {
	c := newClient(t, nil)
	pushOnHead(t, c, note(mutlog.Create, "a", `{}`), note(mutlog.Create, "b", `{}`))
	changes := c.Pull(ctx, client.Query{Since: 0})
	for range changes.All() {
		break
	}
	if head, ok := changes.Head(); ok {
		t.Errorf("half a pull has the head %d", head)
	}
	n := 0
	for range changes.All() { // anew
		n++
	}
	if head, ok := changes.Head(); !ok || n != 2 {
		t.Errorf("%d of 2, head %d %v", n, head, ok)
	}
}

// Page after page, each must continue where the one before has ended.
func TestPullRefusesOddPages(t *testing.T) {
	const m = `{"type":"DELETE","resource":"NOTE","resourceId":"a","timestamp":%d}`
	entry := func(at int) string { return fmt.Sprintf(m, at) }
	for name, pages := range map[string][]string{
		"no head":                       {`{"mutations":[],"hasMore":false}`},
		"a head that is no integer":     {`{"lastMutationAt":9.5,"mutations":[],"hasMore":false}`},
		"a head that is out of range":   {`{"lastMutationAt":9007199254740992,"mutations":[],"hasMore":false}`},
		"no mutations":                  {`{"lastMutationAt":9,"hasMore":false}`},
		"mutations that are null":       {`{"lastMutationAt":9,"mutations":null,"hasMore":false}`},
		"a mutation that is null":       {`{"lastMutationAt":9,"mutations":[null],"hasMore":false}`},
		"no hasMore":                    {`{"lastMutationAt":9,"mutations":[` + entry(1) + `]}`},
		"more, but not behind what":     {`{"lastMutationAt":9,"mutations":[` + entry(1) + `],"hasMore":true}`},
		"more behind something else":    {`{"lastMutationAt":9,"mutations":[` + entry(1) + `],"hasMore":true,"nextAfter":2}`},
		"more behind nothing":           {`{"lastMutationAt":9,"mutations":[],"hasMore":true,"nextAfter":1}`},
		"a mutation twice":              {`{"lastMutationAt":9,"mutations":[` + entry(1) + `,` + entry(1) + `],"hasMore":false}`},
		"mutations out of order":        {`{"lastMutationAt":9,"mutations":[` + entry(2) + `,` + entry(1) + `],"hasMore":false}`},
		"a mutation behind the head":    {`{"lastMutationAt":9,"mutations":[` + entry(10) + `],"hasMore":false}`},
		"a mutation without timestamp":  {`{"lastMutationAt":9,"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"a"}],"hasMore":false}`},
		"a page again":                  {`{"lastMutationAt":9,"mutations":[` + entry(1) + `],"hasMore":true,"nextAfter":1}`, `{"lastMutationAt":9,"mutations":[` + entry(1) + `],"hasMore":false}`},
		"a head that has gone back":     {`{"lastMutationAt":9,"mutations":[` + entry(1) + `],"hasMore":true,"nextAfter":1}`, `{"lastMutationAt":8,"mutations":[],"hasMore":false}`},
		"an empty log after a page":     {`{"lastMutationAt":9,"mutations":[` + entry(1) + `],"hasMore":true,"nextAfter":1}`, `{"lastMutationAt":-1,"mutations":[],"hasMore":false}`},
		"an answer that is no success":  {`null}`, ``},
		"data that is none":             {`null`},
		"a page that is cut, and valid": {`{"lastMutationAt":9,"mutations":[` + entry(1) + `],"hasMore":true,"nextAfter":1}`, `{`},
	} {
		for _, since := range []mutlog.Timestamp{0, mutlog.Beginning} {
			requests := 0
			c := answering(t, func() (int, string) {
				requests++
				return 200, `{"success":true,"data":` + pages[min(requests, len(pages))-1] + `}`
			})
			changes := c.Pull(ctx, client.Query{Since: since, PageSize: 1})
			var err error
			for _, err = range changes.All() {
			}
			if head, ok := changes.Head(); err == nil || ok || requests > len(pages) {
				t.Errorf("%s: %d requests, head %d %v, error %v", name, requests, head, ok, err)
			}
		}
	}
}
