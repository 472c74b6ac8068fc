package server_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/client"
	"tidemark/mutlog"
	"tidemark/server"
)

// Section 3: what a pull gives, in each of its modes.
func TestPull(t *testing.T) {
	r := newRig(t)
	c := r.client("")
	mustPush(t, c, mutlog.Beginning, create("a", `{"n":1,"m":2}`), create("b", `{}`), create("c", `{}`)) // 0 1 2
	mustPush(t, c, start+2, update("a", `{"n":null}`), remove("b"), create("c", `{"again":1}`))          // 3 4 5
	mustPush(t, c, start+5, create("b", `{"second":"life"}`), remove("c"))                               // 6 7
	mustPush(t, c, start+7, mutlog.Mutation{Type: mutlog.Create, Resource: "TAG", ResourceID: "a", Data: []byte(`{}`)}, remove("never"))

	for _, test := range []struct {
		name  string
		query client.Query
		want  []string
	}{
		{"the snapshot", client.Query{Since: -1}, []string{`CREATE a {"m":2} @3`, `CREATE b {"second":"life"} @6`, `CREATE a {} @8`}},
		{"all changes", client.Query{Since: 0}, []string{`CREATE a {"m":2} @3`, `CREATE b {"second":"life"} @6`, `DELETE c @7`, `CREATE a {} @8`, `DELETE never @9`}},
		{"changes", client.Query{Since: start}, []string{`UPDATE a {"m":2} @3`, `CREATE b {"second":"life"} @6`, `DELETE c @7`, `CREATE a {} @8`, `DELETE never @9`}},
		{"changes of a cursor inside a batch", client.Query{Since: start + 6}, []string{`DELETE c @7`, `CREATE a {} @8`, `DELETE never @9`}},
		{"nothing new", client.Query{Since: start + 9}, []string{}},
		{"one kind", client.Query{Since: 0, Resources: []string{"TAG"}}, []string{`CREATE a {} @8`}},
		{"two kinds", client.Query{Since: start + 7, Resources: []string{"TAG", "NOTE"}}, []string{`CREATE a {} @8`, `DELETE never @9`}},
		{"a kind that nobody has", client.Query{Since: -1, Resources: []string{"NOBODY"}}, []string{}},
		{"the history", client.Query{Since: start + 2, History: true}, []string{`UPDATE a {"n":null} @3`, `DELETE b @4`, `CREATE c {"again":1} @5`,
			`CREATE b {"second":"life"} @6`, `DELETE c @7`, `CREATE a {} @8`, `DELETE never @9`}},
		{"the history of one kind", client.Query{Since: -1, History: true, Resources: []string{"TAG"}}, []string{`CREATE a {} @8`}},
	} {
		for _, size := range []int{0, 1, 2, 3, 1000} {
			test.query.PageSize = size
			got, head := mustPull(t, c, test.query)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("%s in pages of %d (-want +got):\n%s", test.name, size, diff)
			}
			if head != start+9 {
				t.Errorf("%s in pages of %d: the head is %d", test.name, size, head)
			}
		}
		// A client of the base asks for no pages and gets the same in one answer.
		query := fmt.Sprintf("mutationsSince=%d&history=%v", test.query.Since, test.query.History)
		if len(test.query.Resources) > 0 {
			query += "&resources=" + strings.Join(test.query.Resources, ",")
		}
		got := decodePage(t, r.get(query).body)
		if diff := cmp.Diff(test.want, allInShort(got.Mutations)); diff != "" {
			t.Errorf("%s in one answer (-want +got):\n%s", test.name, diff)
		}
		// Numbered pages have it, too, and say how many there are.
		var paged []string
		for number := 1; ; number++ {
			if test.query.History {
				break
			}
			p := decodePage(t, r.get(fmt.Sprintf("%s&page=%d&limit=2", query, number)).body)
			paged = append(paged, allInShort(p.Mutations)...)
			if p.Page != number || p.Limit != 2 || p.Total != len(test.want) || p.NextAfter != 0 || p.Head != start+9 {
				t.Errorf("%s, page %d: %+v", test.name, number, p)
			}
			if p.HasMore != (len(paged) < len(test.want)) {
				t.Errorf("%s, page %d: hasMore %v", test.name, number, p.HasMore)
			}
			if !p.HasMore {
				if len(test.want) > 0 {
					if diff := cmp.Diff(test.want, paged); diff != "" {
						t.Errorf("%s in numbered pages (-want +got):\n%s", test.name, diff)
					}
				}
				break
			}
		}
	}
	if p := decodePage(t, r.get("mutationsSince=0&page=99").body); len(p.Mutations) != 0 || p.Total != 5 || p.Limit != 100 || p.HasMore {
		t.Errorf("a page behind the last: %+v", p)
	}
	if p := decodePage(t, r.get("mutationsSince=0&limit=2").body); !p.HasMore || p.NextAfter != start+6 || p.Limit != 2 {
		t.Errorf("a keyset page: %+v", p)
	}
}

type page struct {
	Head      mutlog.Timestamp  `json:"lastMutationAt"`
	Mutations []mutlog.Mutation `json:"mutations"`
	Page      int               `json:"page"`
	Limit     int               `json:"limit"`
	Total     int               `json:"total"`
	HasMore   bool              `json:"hasMore"`
	NextAfter mutlog.Timestamp  `json:"nextAfter"`
}

func decodePage(t testing.TB, body string) page {
	t.Helper()
	var answer struct {
		Success bool
		Data    page
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || !answer.Success {
		t.Fatalf("%v: %.300s", err, body)
	}
	return answer.Data
}

// fill gives the log n resources with data of the given size, past HTTP, and
// returns its head.
func (r *rig) fill(n, size int) (head mutlog.Timestamp) {
	r.t.Helper()
	head = mutlog.Beginning
	data := `{"text":"` + x(size) + `"}`
	for i := 0; i < n; i += 10 { // a transaction reads 1 MiB, but no less than a batch
		var batch []mutlog.Mutation
		for j := i; j < min(i+10, n); j++ {
			batch = append(batch, create(fmt.Sprint(j), data))
		}
		pushed, err := r.rules.Push(ctx, server.DefaultUser, mutlog.Push{Base: head, Mutations: batch})
		if err != nil {
			r.t.Fatal(err)
		}
		head = pushed.Head
	}
	return head
}

// A pull that breaks off is an error, wherever it does, and a device finds no
// head to adopt in it.
func TestCutPull(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		compress bool
		trip     func() error
	}{
		{"corrupt", false, func() error { return fmt.Errorf("batch 7: %w", mutlog.ErrCorrupt) }},
		{"away", true, func() error { return fmt.Errorf("disk: %w", mutlog.ErrUnavailable) }},
		{"panic", true, func() error { panic("the store has a bug") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			const rows = 40
			head := r.fill(rows, 60000)
			connections := &http.Transport{DisableCompression: !c.compress}
			defer connections.CloseIdleConnections()
			r.http.Transport = connections
			for _, size := range []int{20, 1000} {
				r.cutEverywhere(c.trip, func() error { return r.pullInPages(size, rows, head) })
			}
			r.cutEverywhere(c.trip, func() error { return r.pullAtOnce(rows) })
		})
	}
}

// cutEverywhere tries with a store that fails after one view, after two, and so
// on, until the try does not fail.
func (r *rig) cutEverywhere(trip func() error, try func() error) {
	r.t.Helper()
	defer r.store.mend()
	for good := 0; good < 30; good++ {
		r.store.breakAfter(good, trip)
		if err := try(); err == nil {
			if good < 2 {
				r.t.Errorf("it was cut only %d times", good)
			}
			return
		}
	}
	r.t.Error("it never ends")
}

// pullInPages pulls through the client, and checks that there is a head if, and
// only if, there is all.
func (r *rig) pullInPages(size, rows int, head mutlog.Timestamp) (err error) {
	n := 0
	pull := r.client("").Pull(ctx, client.Query{Since: 0, PageSize: size})
	for _, err = range pull.All() {
		n++
	}
	got, ok := pull.Head()
	if err == nil && (n != rows || !ok || got != head) {
		r.t.Errorf("%d of %d rows, head %d %v, and no error", n, rows, got, ok)
	}
	if err != nil && ok {
		r.t.Errorf("%v, and yet the head is %d", err, got)
	}
	return err
}

// pullAtOnce pulls as a client that knows no pages does.
func (r *rig) pullAtOnce(rows int) error {
	res, err := r.http.Get(r.url + "/v1/sync?mutationsSince=0")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("%d: %v", res.StatusCode, err)
	}
	if p := decodePage(r.t, string(body)); len(p.Mutations) != rows {
		r.t.Errorf("%d rows of %d, and no error", len(p.Mutations), rows)
	}
	return nil
}

// The changes of a merge are a pull, too: they may break off, and the push,
// which is applied by then, can be made again.
func TestCutMerge(t *testing.T) {
	r := newRig(t)
	r.http.Transport = manners{t, http.DefaultTransport} // the document is large work for large answers
	c := r.client("")
	head := r.fill(50, 60000)
	p := client.Push{Base: start, Merge: true, Key: client.NewKey(), Mutations: []mutlog.Mutation{create("mine", `{}`)}}
	r.cutEverywhere(func() error { return mutlog.ErrCorrupt }, func() error {
		pushed, err := c.Push(ctx, p)
		if err == nil && (!pushed.Replayed || pushed.Head != head+1 || len(pushed.Changes) != 49) {
			t.Errorf("replayed %v, head %d, %d changes", pushed.Replayed, pushed.Head, len(pushed.Changes))
		}
		return err
	})
	r.unchanged(head + 1)
}

// Rule 15: an answer that nobody reads holds no transaction and no writer, and
// is of one state of the log when it is read at last.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	const rows = 300
	head := r.fill(rows, 60000) // 18 MB, more than the sockets take
	r.store.mend()
	c := r.dial()
	defer c.Close()
	c.SetReadBuffer(64 << 10)
	fmt.Fprint(c, "GET /v1/sync?mutationsSince=0 HTTP/1.1\r\nHost: x\r\n\r\n")

	stalled := func() int64 { // the number of views, once it has stopped growing
		for {
			n := r.store.views.Load()
			time.Sleep(200 * time.Millisecond)
			if n > 0 && n == r.store.views.Load() {
				return n
			}
		}
	}
	views := stalled()
	if open := r.store.open.Load(); open != 0 {
		t.Errorf("%d transactions are open while the reader sleeps", open)
	}
	for range 20 { // if these had to wait for the reader, its answer would be cut before they end
		head = mustPush(t, r.client(""), head, remove("0"), create("new", `{}`))
	}
	c.SetReadBuffer(4 << 20) // awake at last
	res, err := http.ReadResponse(bufio.NewReaderSize(c, 1<<20), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if after := r.store.views.Load(); after <= views {
		t.Errorf("the answer was read from the store at once: %d views of %d", views, after)
	}
	p := decodePage(t, string(body))
	if len(p.Mutations) != rows || p.Head != start+rows-1 {
		t.Errorf("%d rows of %d, head %d, want %d", len(p.Mutations), rows, p.Head, start+rows-1)
	}
	for _, m := range p.Mutations {
		if m.Timestamp > p.Head || m.ResourceID == "new" {
			t.Errorf("%s was pushed later than the head of the answer", inShort(m)[:20])
		}
	}
}

// A client that goes away in the middle leaves nothing behind.
func TestReaderGoesAway(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	head := r.fill(300, 60000)
	for range 3 {
		c := r.dial()
		c.SetReadBuffer(4 << 10)
		fmt.Fprint(c, "GET /v1/sync?mutationsSince=0 HTTP/1.1\r\nHost: x\r\n\r\n")
		io.ReadFull(c, make([]byte, 1000))
		c.SetLinger(0)
		c.Close()
	}
	r.log.take(t, 3)
	r.unchanged(head)
}

// A page changes between two pages of a pull: numbered pages may skip then,
// keyset pages do not. Which head the device may adopt, client's tests say.
func TestKeysetPagesSkipNothing(t *testing.T) {
	r := newRig(t)
	c := r.client("")
	head := mustPush(t, c, mutlog.Beginning, create("a", `{}`), create("b", `{}`), create("c", `{}`), create("d", `{}`))
	pull := c.Pull(ctx, client.Query{Since: 0, PageSize: 2})
	var got []string
	for m, err := range pull.All() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, inShort(m))
		switch m.Timestamp {
		case start + 1:
			head = mustPush(t, c, head, update("a", `{"n":1}`)) // of a page that is read
		case start + 3:
			head = mustPush(t, c, head, remove("c"), update("d", `{"n":1}`)) // of the page that is being read
		}
	}
	want := []string{`CREATE a {} @0`, `CREATE b {} @1`, `CREATE c {} @2`, `CREATE d {} @3`, `CREATE a {"n":1} @4`, `DELETE c @5`, `CREATE d {"n":1} @6`}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if adopted, ok := pull.Head(); !ok || adopted != head {
		t.Errorf("the head is %d %v, want %d", adopted, ok, head)
	}
}

func TestContextEndsPull(t *testing.T) {
	r := newRig(t)
	mustPush(t, r.client(""), mutlog.Beginning, create("a", `{}`), create("b", `{}`))
	c, cancel := context.WithCancel(ctx)
	defer cancel()
	pull := r.client("").Pull(c, client.Query{Since: 0, PageSize: 1})
	var last error
	for _, err := range pull.All() {
		last = err
		cancel()
	}
	if _, ok := pull.Head(); ok || !errors.Is(last, c.Err()) {
		t.Errorf("a pull that was called off: %v %v", ok, last)
	}
}
