package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tidemark/client"
	"tidemark/mutlog"
	"tidemark/resources"
	"tidemark/server"
)

// going makes a server go by a resource file of this text.
func going(t testing.TB, text string) func(*server.Options) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resources.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return goingBy(t, path)
}

// goingBy makes a server go by the resource file at path.
func goingBy(t testing.TB, path string) func(*server.Options) {
	t.Helper()
	kinds, err := resources.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *server.Options) { o.Resources = func() mutlog.Kinds { return kinds } }
}

// body returns the body of a push of mutations.
func body(mutations ...string) string {
	return `{"mutations":[` + strings.Join(mutations, ",") + `]}`
}

// expect compares an answer with a status and a part of its body.
func (a answer) expect(t testing.TB, status int, part string) {
	t.Helper()
	if a.StatusCode != status || !strings.Contains(a.body, part) {
		t.Errorf("got %d %s\nwant %d %s", a.StatusCode, a.body, status, part)
	}
}

const links = "resources:\n  LINK: {key: [from, to]}\n  NOTE: {maxDataBytes: 100, maxResources: 3, schema: {properties: {n: {maximum: 9007199254740992}}}}\n"

// TestCompositeOnTheWire: clients leave out the resourceId, pushes tell it,
// pulls leave it out, and what is pulled can be pushed (docs/resources.md,
// "Composite keys").
func TestCompositeOnTheWire(t *testing.T) {
	r := newRig(t, going(t, links))
	link := func(kind, data string) string {
		return fmt.Sprintf(`{"type":%q,"resource":"LINK","data":%s}`, kind, data)
	}
	at := func(n int) string { return fmt.Sprint(int(start) + n) }

	r.post("lastMutationAt=-1", body(link("CREATE", `{"from":"a","to":1}`), link("CREATE", `{"from":"b","to":1}`))).expect(t, 200,
		`"mutations":[{"type":"CREATE","resource":"LINK","resourceId":"a-1","data":{"from":"a","to":1},"timestamp":`+at(0)+`},`)
	r.post("lastMutationAt="+at(1), body(link("UPDATE", `{"from":"a","to":1,"x":2}`), link("DELETE", `{"from":"b","to":1,"x":0}`))).expect(t, 200,
		`{"type":"DELETE","resource":"LINK","resourceId":"b-1","data":{"from":"b","to":1},"timestamp":`+at(3)+`}`)
	pulled := `{"type":"CREATE","resource":"LINK","data":{"from":"a","to":1,"x":2},"timestamp":` + at(2) + `},` +
		`{"type":"DELETE","resource":"LINK","data":{"from":"b","to":1},"timestamp":` + at(3) + `}`
	r.get("mutationsSince=0").expect(t, 200, `"mutations":[`+pulled+`]`)
	r.get("mutationsSince="+at(1)).expect(t, 200, `"mutations":[`+strings.Replace(pulled, "CREATE", "UPDATE", 1)+`]`)
	r.get("mutationsSince=0&history=true").expect(t, 200, `{"type":"DELETE","resource":"LINK","data":{"from":"b","to":1,"x":0},"timestamp":`+at(3)+`}`)
	r.get("mutationsSince=0&limit=1&resources=LINK").expect(t, 200, `"hasMore":true`)

	r.post("lastMutationAt="+at(1), body(link("UPDATE", `{"from":"a","to":1,"x":3}`), link("CREATE", `{"from":"b","to":1}`))).expect(t, 409,
		`"conflicts":[{"index":0,"resource":"LINK","resourceId":"a-1","client":{"type":"UPDATE","data":{"from":"a","to":1,"x":3}},`+
			`"server":{"type":"UPDATE","data":{"from":"a","to":1,"x":2},"timestamp":`+at(2)+`},"fields":["x"]},`+
			`{"index":1,"resource":"LINK","resourceId":"b-1","client":{"type":"CREATE","data":{"from":"b","to":1}},`+
			`"server":{"type":"DELETE","data":{"from":"b","to":1},"timestamp":`+at(3)+`},"fields":[]}]`)
	r.post("merge=true&lastMutationAt="+at(1), body(link("CREATE", `{"from":"c","to":1}`))).expect(t, 200,
		`"changes":[`+strings.Replace(pulled, "CREATE", "UPDATE", 1)+`]`)
	r.post("lastMutationAt="+at(4), body(pulled)).expect(t, 200, `"lastMutationAt":`+at(6))
	r.post("lastMutationAt="+at(6), body(link("DELETE", `{"from":"c","to":1}`)), "Prefer: return=minimal").expect(t, 200,
		`{"type":"DELETE","resource":"LINK","resourceId":"c-1","timestamp":`+at(7)+`}`)
	r.post("lastMutationAt="+at(7), body(link("DELETE", `{"from":"c"}`))).expect(t, 422, `{"index":0,"member":"data/to","message":"Missing data/to at mutation[0]"}`)
}

// TestSchemaOnTheWire: each rule that is broken is told, with mutation and path,
// and numbers are compared by their digits (docs/resources.md, "Schemas").
func TestSchemaOnTheWire(t *testing.T) {
	r := newRig(t, going(t, links))
	note := func(kind, data string) string {
		return fmt.Sprintf(`{"type":%q,"resource":"NOTE","resourceId":"n","data":%s}`, kind, data)
	}
	r.post("lastMutationAt=-1", body(note("CREATE", `{"n":9007199254740992}`), note("UPDATE", `{"m":1e400}`))).expect(t, 200, `"data":{"n":9007199254740992,"m":1e400}`)
	message := "Invalid data/n at mutation[%d]: must be at most 9007199254740992 (rule /properties/n/maximum)"
	want := envelope("unprocessable_entity", "ValidationError", fmt.Sprintf(message, 0),
		`{"errors":[{"index":0,"member":"data/n","message":"`+fmt.Sprintf(message, 0)+`"},{"index":1,"member":"data/n","message":"`+fmt.Sprintf(message, 1)+`"}]}`)
	got := r.post(fmt.Sprintf("lastMutationAt=%d", start+1), body(note("CREATE", `{"n":9007199254740993}`), note("UPDATE", `{"x":1}`)))
	if diff := cmp.Diff(want, got.body); diff != "" || got.StatusCode != 422 {
		t.Errorf("%d, -want +got:\n%s", got.StatusCode, diff)
	}
	r.post("lastMutationAt=0", body(`{"type":"CREATE","resource":"OTHER","data":{}}`)).expect(t, 422, `Invalid resource: \"OTHER\" at mutation[0]`)
	r.get("mutationsSince=0&resources=NOTE,OTHER").expect(t, 422, `The parameter resources has an item that is no resource: \"OTHER\"`)
	r.get("mutationsSince=-1").expect(t, 200, `"data":{"n":9007199254740992,"m":1e400}`)
}

// TestLimitsOfResources: clients learn what the resource file says.
func TestLimitsOfResources(t *testing.T) {
	r := newRig(t, going(t, links+"  OWN: {scope: 'a:b'}\n"))
	r.send("GET", "/v1/sync/limits", "").expect(t, 200,
		`,"resources":{"LINK":{"schema":false,"key":["from","to"]},"NOTE":{"schema":true,"maxDataBytes":100,"maxResources":3},"OWN":{"schema":false,"scope":"a:b"}}}}`)
}

// TestReloadedResources: a request goes by what holds when it begins.
func TestReloadedResources(t *testing.T) {
	var now atomic.Pointer[mutlog.Kinds]
	now.Store(&mutlog.Kinds{"A": {}})
	r := newRig(t, func(o *server.Options) { o.Resources = func() mutlog.Kinds { return *now.Load() } })
	push := func(resource string, status int) {
		t.Helper()
		r.post("merge=true&lastMutationAt=-1", body(`{"type":"CREATE","resource":"`+resource+`","resourceId":"`+resource+`","data":{}}`)).expect(t, status, "")
	}
	push("B", 422)
	push("A", 200)
	now.Store(&mutlog.Kinds{"B": {}})
	push("A", 422)
	r.get("mutationsSince=-1").expect(t, 200, `"resource":"A"`)
}

// TestQuotaOnTheWire: a push over a bound is refused, clients learn of the
// bounds, and what frees something goes through (docs/resources.md, "Quotas").
func TestQuotaOnTheWire(t *testing.T) {
	r := newRig(t, going(t, links), func(o *server.Options) { o.Limits.Quota = mutlog.Count{Bytes: 30, Resources: 4} })
	r.send("GET", "/v1/sync/limits", "").expect(t, 200, `,"quotaBytes":30,"quotaResources":4,"resources":{`)
	note := func(id, data string) string {
		return fmt.Sprintf(`{"type":"CREATE","resource":"NOTE","resourceId":%q,"data":%s}`, id, data)
	}
	full := body(note("a", `{"x":12345}`), note("b", `{}`), note("c", `{}`))
	r.post("lastMutationAt=-1", full).expect(t, 200, "")
	on := fmt.Sprintf("lastMutationAt=%d", start+2)
	r.post(on, body(note("d", `{}`), `{"type":"CREATE","resource":"LINK","data":{"from":1,"to":222}}`)).expect(t, 422,
		`"details":{"errors":[{"index":0,"member":"maxResources","message":"Quota exceeded at mutation[0]: at most 3 of NOTE"},`+
			`{"index":1,"member":"quotaBytes","message":"Quota exceeded at mutation[1]: at most 30 bytes"},`+
			`{"index":1,"member":"quotaResources","message":"Quota exceeded at mutation[1]: at most 4 resources"}]}`)
	r.post("lastMutationAt=-1", full).expect(t, 200, "") // replayed
	r.post(on, body(`{"type":"DELETE","resource":"NOTE","resourceId":"a"}`, note("d", `{"x":1234}`))).expect(t, 200, "")
}

// TestCompositeByClient: the Go client takes composite resources as pulls give
// them, and sends them back.
func TestCompositeByClient(t *testing.T) {
	r := newRig(t, going(t, links))
	c := r.client("")
	link := mutlog.Mutation{Type: mutlog.Create, Resource: "LINK", Data: []byte(`{"from":"a","to":1}`)}
	head := mustPush(t, c, mutlog.Beginning, link)
	for m, err := range c.Pull(t.Context(), client.Query{Since: mutlog.Beginning}).All() {
		if err != nil || m.ResourceID != "" || string(m.Data) != string(link.Data) {
			t.Fatalf("%v, %v", m, err)
		}
		m.Type = mutlog.Delete
		head = mustPush(t, c, head, m)
	}
	if got, _ := mustPull(t, c, client.Query{Since: 0}); len(got) != 1 || got[0] != `DELETE  {"from":"a","to":1} @1` {
		t.Errorf("got %q", got)
	}
}

// TestQuotaRace: however many devices push at once on a log of which nobody has
// counted anything, no more is live in the end than the quota allows (rule 24).
func TestQuotaRace(t *testing.T) {
	const before, devices, most = 30, 8, 40
	r := newRig(t, func(o *server.Options) { o.Limits.Quota = mutlog.Count{Resources: most} })
	uncounted := mutlog.New(r.store, mutlog.DefaultLimits)
	var notes []mutlog.Mutation
	for i := range before {
		notes = append(notes, create(fmt.Sprint("old-", i), `{}`))
	}
	pushed, err := uncounted.Push(t.Context(), server.DefaultUser, mutlog.Push{Base: mutlog.Beginning, Mutations: notes})
	if err != nil {
		t.Fatal(err)
	}
	var taken atomic.Int64
	var running sync.WaitGroup
	for d := range devices {
		running.Go(func() {
			for i := range 5 {
				a := r.post(fmt.Sprintf("merge=true&lastMutationAt=%d", pushed.Head),
					body(fmt.Sprintf(`{"type":"CREATE","resource":"NOTE","resourceId":"new-%d-%d","data":{}}`, d, i)))
				switch {
				case a.StatusCode == 200:
					taken.Add(1)
				case a.StatusCode != 422 || !strings.Contains(a.body, "quotaResources"):
					t.Errorf("got %d %s", a.StatusCode, a.body)
				}
			}
		})
	}
	running.Wait()
	if taken.Load() != most-before {
		t.Errorf("%d pushes were taken, want %d", taken.Load(), most-before)
	}
}
