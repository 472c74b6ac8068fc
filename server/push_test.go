package server_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"

	"tidemark/client"
	"tidemark/mutlog"
)

var ctx = context.Background()

// Rule 6 over the wire: an answer tells what each mutation left.
func TestPushAcknowledges(t *testing.T) {
	c := newClient(t)
	pushed, err := c.Push(ctx, client.Push{Base: mutlog.Beginning, Mutations: []mutlog.Mutation{
		create("", `{"n":1}`), create("a", `{"n":1,"o":{"p":1,"q":2}}`), update("a", `{"o":{"p":null},"m":3}`), remove("a"),
		remove("never"), update("a", `{"again":true}`), create("a", `{}`),
	}})
	if err != nil {
		t.Fatal(err)
	}
	id := pushed.Mutations[0].ResourceID
	if _, err := ulid.ParseStrict(id); err != nil {
		t.Errorf("the server assigned %q: %v", id, err)
	}
	want := []string{`CREATE ` + id + ` {"n":1} @0`, `CREATE a {"n":1,"o":{"p":1,"q":2}} @1`, `UPDATE a {"n":1,"o":{"q":2},"m":3} @2`, `DELETE a @3`,
		`DELETE never @4`, `UPDATE a {"again":true} @5`, `CREATE a {} @6`}
	if diff := cmp.Diff(want, allInShort(pushed.Mutations)); diff != "" {
		t.Error(diff)
	}
	if pushed.Head != start+6 || pushed.Replayed || pushed.Changes != nil {
		t.Errorf("%+v", pushed)
	}
	minimal, err := c.Push(ctx, client.Push{Base: pushed.Head, Minimal: true, Mutations: []mutlog.Mutation{update("a", `{"x":1}`)}})
	if err != nil || minimal.Mutations[0].Data != nil || minimal.Head != start+7 {
		t.Errorf("%+v %v", minimal, err)
	}
}

// The refusals of a log are the same errors on both sides of the wire.
func TestErrorsCrossTheWire(t *testing.T) {
	r := newRig(t)
	c := r.client("")
	head := mustPush(t, c, mutlog.Beginning, create("a", `{"n":1.50}`))
	head = mustPush(t, c, head, update("a", `{"n":2.50}`))

	_, err := c.Push(ctx, client.Push{Base: start, Mutations: []mutlog.Mutation{create("b", `{}`), update("a", `{"n":3.50}`)}})
	var outOfSync *mutlog.OutOfSyncError
	if !errors.As(err, &outOfSync) {
		t.Fatalf("no OutOfSyncError: %v", err)
	}
	want := &mutlog.OutOfSyncError{Reason: mutlog.StaleCursor, Client: start, Server: head, Conflicts: []mutlog.Conflict{{
		Index:  1,
		Client: update("a", `{"n":3.50}`),
		Server: mutlog.Mutation{Type: mutlog.Update, Resource: "NOTE", ResourceID: "a", Data: []byte(`{"n":2.50}`), Timestamp: head},
		Fields: []string{"n"},
	}}}
	if diff := cmp.Diff(want, outOfSync); diff != "" {
		t.Error(diff)
	}
	var refused *client.Error
	if !errors.As(err, &refused) || refused.Status != 409 || refused.Code != "OutOfSyncError" || refused.Message != want.Error() || refused.RequestID == "" {
		t.Errorf("%+v", refused)
	}

	for _, err := range c.Pull(ctx, client.Query{Since: head + 1}).All() {
		if !errors.As(err, &outOfSync) || outOfSync.Reason != mutlog.CursorAhead || outOfSync.Server != head || outOfSync.Conflicts != nil {
			t.Errorf("%v", err)
		}
	}

	_, err = c.Push(ctx, client.Push{Base: head, Mutations: []mutlog.Mutation{remove("a"), {Type: "UPSERT", Resource: "note"}, update("", `{}`)}})
	var invalid *mutlog.ValidationError
	if !errors.As(err, &invalid) {
		t.Fatalf("no ValidationError: %v", err)
	}
	faults := []mutlog.Fault{
		{Index: 1, Member: "resource", Message: `Invalid resource: "note" at mutation[1]`},
		{Index: 1, Member: "type", Message: `Invalid mutation type: "UPSERT" at mutation[1]`},
		{Index: 2, Member: "resourceId", Message: "Missing resourceId at mutation[2]"},
	}
	if diff := cmp.Diff(faults, invalid.Faults); diff != "" {
		t.Error(diff)
	}
	_, err = c.Push(ctx, client.Push{Base: head, Mutations: []mutlog.Mutation{{Type: mutlog.Create, Resource: "NOTE", Data: []byte(`{}},{`)}}})
	if !errors.As(err, &invalid) {
		t.Errorf("data that is no JSON: %v", err)
	}

	p := client.Push{Base: head, Key: client.NewKey(), Mutations: []mutlog.Mutation{create("k", `{}`)}}
	if _, err := c.Push(ctx, p); err != nil {
		t.Fatal(err)
	}
	p.Mutations = []mutlog.Mutation{create("k", `{"other":1}`)}
	if _, err := c.Push(ctx, p); !errors.Is(err, mutlog.ErrKeyReused) {
		t.Errorf("a key used for other mutations: %v", err)
	}

	r.store.breakAfter(0, func() error { return fmt.Errorf("disk: %w", mutlog.ErrUnavailable) })
	if _, err := c.Head(ctx); !errors.Is(err, mutlog.ErrUnavailable) || errors.As(err, &refused) && refused.Status != 503 {
		t.Errorf("a store that is away: %v", err)
	}
	r.store.breakAfter(0, func() error { return mutlog.ErrCorrupt })
	if _, err := c.Head(ctx); errors.Is(err, mutlog.ErrUnavailable) || !errors.As(err, &refused) || refused.Status != 500 || refused.Code != "InternalError" {
		t.Errorf("a corrupt store: %v", err)
	}
}

// Section 2: merge=true.
func TestMerge(t *testing.T) {
	r := newRig(t)
	phone, tablet := r.client("", client.WithClientID("phone")), r.client("", client.WithClientID("tablet"))
	base := mustPush(t, phone, mutlog.Beginning, create("a", `{"n":1}`), create("b", `{"n":1}`))
	head := mustPush(t, phone, base, update("a", `{"n":2}`), create("c", `{}`), remove("c"))

	p := client.Push{Base: base, Merge: true, Mutations: []mutlog.Mutation{update("b", `{"n":5}`), create("", `{}`)}}
	first, err := tablet.Push(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`UPDATE a {"n":2} @2`, `DELETE c @4`}
	if diff := cmp.Diff(want, allInShort(first.Changes)); diff != "" {
		t.Error(diff)
	}
	if first.Head != head+2 || first.Mutations[0].Timestamp != head+1 || string(first.Mutations[0].Data) != `{"n":5}` || first.Replayed {
		t.Errorf("%+v", first)
	}
	// Sent again it is the same answer, also after the log has moved on.
	mustPush(t, phone, first.Head, update("a", `{"n":3}`))
	second, err := tablet.Push(ctx, p)
	if err != nil {
		t.Fatal(err)
	}
	if !second.Replayed {
		t.Error("the repeat of a merge was applied")
	}
	second.Replayed = false
	if diff := cmp.Diff(first, second); diff != "" {
		t.Errorf("a merge and its repeat: %s", diff)
	}
	// What collides is refused, and says with what.
	var outOfSync *mutlog.OutOfSyncError
	_, err = tablet.Push(ctx, client.Push{Base: base, Merge: true, Mutations: []mutlog.Mutation{create("d", `{}`), remove("a")}})
	if !errors.As(err, &outOfSync) || outOfSync.Reason != mutlog.StaleCursor || len(outOfSync.Conflicts) != 1 || outOfSync.Conflicts[0].Index != 1 {
		t.Errorf("a merge that collides: %v", err)
	}
	// On the head, and empty, it has no changes, which are an empty list.
	got := r.post(fmt.Sprintf("lastMutationAt=%d&merge=true", first.Head+1), `{"mutations":[]}`)
	if want := fmt.Sprintf(`{"success":true,"data":{"lastMutationAt":%d,"mutations":[],"changes":[]}}`+"\n", first.Head+1); got.body != want {
		t.Errorf("an empty merge on the head: %s", got.body)
	}
	// An empty one behind the head is a pull.
	level, err := tablet.Push(ctx, client.Push{Base: head, Merge: true})
	if err != nil || level.Head != first.Head+1 || len(level.Changes) != 3 {
		t.Errorf("an empty merge behind the head: %+v %v", level, err)
	}
	// From nothing at all: the snapshot, and then the own mutation.
	fresh, err := tablet.Push(ctx, client.Push{Base: mutlog.Beginning, Merge: true, Mutations: []mutlog.Mutation{create("fresh", `{}`)}})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range fresh.Changes {
		if m.Type != mutlog.Create {
			t.Errorf("the changes since -1 hold %s", inShort(m))
		}
	}
	if len(fresh.Changes) != 3 {
		t.Errorf("the changes since -1 are %v", allInShort(fresh.Changes))
	}
}

// Section 2, exactly once: a repeat is answered as the first try was, byte for
// byte, also when the head has moved on; what is not the same push is none.
func TestReplay(t *testing.T) {
	body := `{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"a":1,"b":"é"}},{"type":"UPDATE","resource":"NOTE","resourceId":"u","data":{}}]}`
	for _, c := range []struct {
		name         string
		first, again []string // headers
		query, body  string   // of the repeat; as the first if empty
		status       int
		replayed     bool
	}{
		{name: "keyless", status: 200, replayed: true},
		{name: "keyless, of one client", first: []string{"x-client-id: p"}, again: []string{"x-client-id: p"}, status: 200, replayed: true},
		{name: "keyless, other order and escapes", body: `{"mutations":[{"data":{"b":"\u00e9", "a":1},"resource":"NOTE","type":"CREATE","timestamp":7},{"type":"UPDATE","resource":"NOTE","resourceId":"u","data":{}}]}`, status: 200, replayed: true},
		{name: "keyless, minimal", again: []string{"Prefer: return=minimal"}, status: 200, replayed: true},
		{name: "keyless, of another client", first: []string{"x-client-id: p"}, again: []string{"x-client-id: q"}, status: 409},
		{name: "keyless, of a client and none", first: []string{"x-client-id: p"}, status: 409},
		{name: "keyless, of none and a client", again: []string{"x-client-id: p"}, status: 409},
		{name: "keyless, other cursor", query: "lastMutationAt=0", status: 409},
		{name: "keyless, other mutations", body: good, status: 409},
		{name: "keyless, other digits", body: strings.Replace(body, `"a":1`, `"a":1.0`, 1), status: 409},
		{name: "keyless, with the id that was assigned", body: strings.Replace(body, `"data":{"a"`, `"resourceId":"ID","data":{"a"`, 1), status: 409},
		{name: "keyless, fewer", body: `{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"a":1,"b":"é"}}]}`, status: 409},
		{name: "keyed", first: []string{"Idempotency-Key: k"}, again: []string{"Idempotency-Key: k"}, status: 200, replayed: true},
		{name: "keyed, other cursor", first: []string{"Idempotency-Key: k"}, again: []string{"Idempotency-Key: k"}, query: "lastMutationAt=5", status: 200, replayed: true},
		{name: "keyed, other client", first: []string{"Idempotency-Key: k", "x-client-id: p"}, again: []string{"Idempotency-Key: k"}, status: 200, replayed: true},
		{name: "keyed, other mutations", first: []string{"Idempotency-Key: k"}, again: []string{"Idempotency-Key: k"}, body: good, status: 422},
		{name: "keyed, empty", first: []string{"Idempotency-Key: k"}, again: []string{"Idempotency-Key: k"}, body: `{"mutations":[]}`, status: 422},
		{name: "keyed and keyless", first: []string{"Idempotency-Key: k"}, status: 409},
		{name: "keyless and keyed", again: []string{"Idempotency-Key: k"}, status: 409},
		{name: "two keys", first: []string{"Idempotency-Key: k"}, again: []string{"Idempotency-Key: K"}, status: 409},
		{name: "of another user", again: []string{"X-User-Id: other"}, status: 200},
		{name: "keyed, of another user", first: []string{"Idempotency-Key: k"}, again: []string{"Idempotency-Key: k", "X-User-Id: other"}, status: 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, movedOn := range []bool{false, true} {
				r := newRig(t)
				first := r.post("lastMutationAt=-1", body, c.first...)
				if first.StatusCode != 200 || first.Header.Get("Idempotency-Replayed") != "" {
					t.Fatalf("the first try: %d %v", first.StatusCode, first.Header)
				}
				head := start + 1
				if movedOn {
					head = mustPush(t, r.client(""), head, update("u", `{"moved":"on"}`))
				}
				query, text := "lastMutationAt=-1", body
				if c.query != "" {
					query = c.query
				}
				if c.body != "" {
					text = c.body
				}
				again := r.post(query, text, c.again...)
				if again.StatusCode != c.status || (again.Header.Get("Idempotency-Replayed") == "true") != c.replayed {
					t.Fatalf("the repeat: %d %v %s", again.StatusCode, again.Header, again.body)
				}
				if c.replayed {
					if again.Header.Get("Preference-Applied") == "" && again.body != first.body {
						t.Errorf("the repeat differs: %s", cmp.Diff(first.body, again.body))
					}
					if again.Header.Get("X-Mutation-At") != first.Header.Get("X-Mutation-At") {
						t.Errorf("X-Mutation-At: %s, first %s", again.Header.Get("X-Mutation-At"), first.Header.Get("X-Mutation-At"))
					}
				}
				r.unchanged(head)
			}
		})
	}
}

// A refusal is not remembered: the same push may be right later.
func TestRefusalIsNotRemembered(t *testing.T) {
	r := newRig(t)
	c := r.client("")
	p := client.Push{Base: start, Key: "k", Mutations: []mutlog.Mutation{create("b", `{}`)}}
	if _, err := c.Push(ctx, p); err == nil {
		t.Fatal("a push on a cursor ahead of the log was applied")
	}
	mustPush(t, c, mutlog.Beginning, create("a", `{}`))
	if pushed, err := c.Push(ctx, p); err != nil || pushed.Replayed {
		t.Errorf("%+v %v", pushed, err)
	}
	// Nor is an empty batch.
	empty := client.Push{Base: start + 1, Key: "e"}
	for range 2 {
		if pushed, err := c.Push(ctx, empty); err != nil || pushed.Replayed || pushed.Head != start+1 {
			t.Errorf("%+v %v", pushed, err)
		}
	}
	empty.Mutations = []mutlog.Mutation{remove("a")}
	if pushed, err := c.Push(ctx, empty); err != nil || pushed.Replayed {
		t.Errorf("the key of an empty batch: %+v %v", pushed, err)
	}
}

// Fifty at once are one batch and fifty equal answers.
func TestReplayInParallel(t *testing.T) {
	for _, headers := range [][]string{nil, {"Idempotency-Key: k"}, {"x-client-id: p"}} {
		r := newRig(t)
		const tries = 50
		r.http.Transport = manners{t, contractTransport{t: t, next: &http.Transport{DisableKeepAlives: true}}}
		answers := make([]answer, tries)
		var wg sync.WaitGroup
		for i := range answers {
			wg.Go(func() {
				answers[i] = r.post("lastMutationAt=-1", `{"mutations":[{"type":"CREATE","resource":"NOTE","data":{"n":1}}]}`, headers...)
			})
		}
		wg.Wait()
		applied := 0
		for _, a := range answers {
			if a.Header.Get("Idempotency-Replayed") == "" {
				applied++
			}
			if a.StatusCode != 200 || a.body != answers[0].body {
				t.Errorf("%d %s and %s", a.StatusCode, a.body, answers[0].body)
			}
		}
		if applied != 1 {
			t.Errorf("%v: %d of %d say that they were the first", headers, applied, tries)
		}
		r.unchanged(start)
	}
}

// Fifty different ones on one cursor are one batch and 49 refusals.
func TestOneWinner(t *testing.T) {
	r := newRig(t)
	c := r.client("")
	var wg sync.WaitGroup
	errs := make([]error, 50)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = c.Push(ctx, client.Push{Base: mutlog.Beginning, Mutations: []mutlog.Mutation{create(fmt.Sprint(i), `{}`)}})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		var outOfSync *mutlog.OutOfSyncError
		if err == nil {
			won++
		} else if !errors.As(err, &outOfSync) || outOfSync.Server != start {
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d pushes on one cursor were applied", won)
	}
	r.unchanged(start)
}

// Section 1: logs never mix. Whatever B asks, with whatever of A's it knows, is
// answered as it is for C, who asks the same about things that nobody has.
func TestUsersAreApart(t *testing.T) {
	r := newRig(t)
	a := r.client("A")
	head := mustPush(t, a, mutlog.Beginning, create("secret", `{"a":1}`))
	if _, err := a.Push(ctx, client.Push{Base: head, Key: "key-of-a", Mutations: []mutlog.Mutation{update("secret", `{"a":2}`)}}); err != nil {
		t.Fatal(err)
	}
	before := r.get("mutationsSince=0&history=true", "X-User-Id: A").body

	batch := func(m string) string { return `{"mutations":[` + m + `]}` }
	for _, c := range []struct{ method, query, body, header string }{
		{"GET", "mutationsSince=0", "", ""},
		{"GET", "mutationsSince=-1", "", ""},
		{"GET", "mutationsSince=0&history=true", "", ""},
		{"GET", "mutationsSince=0&metadataOnly=true", "", ""},
		{"GET", "mutationsSince=0&limit=1&after=1", "", ""},
		{"GET", "mutationsSince=0&page=1", "", ""},
		{"GET", "mutationsSince=0&resources=NOTE", "", ""},
		{"GET", "mutationsSince=" + start.String(), "", ""},
		{"GET", "mutationsSince=0", "", `If-None-Match: W/"` + start.String() + `"`},
		{"POST", "lastMutationAt=" + start.String(), batch(`{"type":"DELETE","resource":"NOTE","resourceId":"ID"}`), ""},
		{"POST", "lastMutationAt=-1&merge=true", batch(`{"type":"UPDATE","resource":"NOTE","resourceId":"ID","data":{"b":1}}`), ""},
		{"POST", "lastMutationAt=" + start.String(), batch(`{"type":"UPDATE","resource":"NOTE","resourceId":"ID","data":{"a":2}}`), "Idempotency-Key: key-of-a"},
		{"POST", "lastMutationAt=" + start.String(), batch(`{"type":"DELETE","resource":"NOTE","resourceId":"ID"}`), "Idempotency-Key: key-of-a"},
		{"POST", "lastMutationAt=-1", batch(`{"type":"CREATE","resource":"NOTE","resourceId":"ID","data":{"a":1}}`), ""},
		{"POST", "lastMutationAt=" + start.String(), batch(`{"type":"DELETE","resource":"NOTE","resourceId":"ID"}`), ""},
		{"POST", "lastMutationAt=5", batch(`{"type":"DELETE","resource":"NOTE","resourceId":"ID"}`), ""},
		{"GET", "mutationsSince=0", "", ""},
	} {
		ask := func(user, id string) (int, string, string) {
			headers := []string{"X-User-Id: " + user}
			if c.header != "" {
				headers = append(headers, c.header)
			}
			got := r.send(c.method, "/v1/sync?"+c.query, strings.ReplaceAll(c.body, "ID", id), headers...)
			return got.StatusCode, strings.ReplaceAll(got.body, id, "ID"), got.Header.Get("X-Mutation-At") + got.Header.Get("Idempotency-Replayed")
		}
		bStatus, bBody, bHeaders := ask("B", "secret")
		cStatus, cBody, cHeaders := ask("C", "random")
		if bStatus != cStatus || bBody != cBody || bHeaders != cHeaders {
			t.Errorf("%s %s %s:\nof A's:     %d %s %s\nof nobody's: %d %s %s", c.method, c.query, c.body, bStatus, bHeaders, bBody, cStatus, cHeaders, cBody)
		}
	}
	if after := r.get("mutationsSince=0&history=true", "X-User-Id: A").body; after != before {
		t.Errorf("the log of A has changed: %s", cmp.Diff(before, after))
	}
	// Names that are almost the same are different users, and none is default.
	mustPush(t, r.client(""), mutlog.Beginning, create("d", `{}`))
	if got := r.get("mutationsSince=-1", "X-User-Id: default"); !strings.Contains(got.body, `"resourceId":"d"`) {
		t.Errorf("the user without a name is not default: %s", got.body)
	}
	for _, user := range []string{"a", "A ", "AA", "Default", "Ａ", "A/../default", "A\u00a0"} {
		if got := r.get("mutationsSince=-1", "X-User-Id: "+strings.TrimSpace(user)+"x"); !strings.Contains(got.body, `"mutations":[]`) {
			t.Errorf("user %q: %s", user, got.body)
		}
	}
}
