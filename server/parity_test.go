package server_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store"
	"tidemark/store/postgrestest"
)

// TestParity sends one random sequence of requests, good and bad, to a server on
// each kind of store: with the same clock and the same source of ids, every
// answer must be the same to the byte (I15). Which store is behind a server is
// not for clients to see.
func TestParity(t *testing.T) {
	const generation = 2_000
	n := 10_000
	if testing.Short() || mutlogtest.UnderRaceDetector() { // .ci/run runs it without, too
		n = generation
	}
	var rigs []*rig
	clock, ids := &mutlogtest.Clock{}, []func() string{mutlogtest.IDs(), mutlogtest.IDs()}
	for i, name := range []string{filepath.Join(t.TempDir(), "tidemark.db"), postgrestest.URL(t)} {
		logs, err := store.Open(name, store.BoltOptions{})
		if err != nil {
			t.Fatal(err)
		}
		r := newRigOn(t, logs)
		r.rules.Now, r.rules.NewID = clock.Now, ids[i]
		rigs = append(rigs, r)
	}
	w := newWanderer(mutlogtest.Seed(t))
	now := int64(start)
	for i := range n {
		if i%generation == 0 { // the longer the logs, the longer the answers
			sameLogs(t, rigs, w.users)
			w.meet(i / generation)
		}
		now += int64(w.rnd.IntN(20) - 4) // it goes back now and then
		clock.Set(now)
		request := w.next()
		bolt := rigs[0].send(request.method, request.uri, request.body, request.headers...)
		postgres := rigs[1].send(request.method, request.uri, request.body, request.headers...)
		if diff := cmp.Diff(essence(bolt), essence(postgres)); diff != "" {
			t.Fatalf("request %d: %s %s %q\n%.1000s\nbolt (-) and PostgreSQL (+) differ:\n%s", i, request.method, request.uri, request.headers, request.body, diff)
		}
		w.learn(request, bolt)
	}
	sameLogs(t, rigs, w.users)
	t.Logf("%d requests, answered alike: %v", n, w.answered)
	for _, status := range []int{200, 304, 400, 404, 405, 409, 422} {
		if w.answered[status]*200 < n && !t.Failed() {
			t.Errorf("only %d of %d answers are %d: too few to prove anything", w.answered[status], n, status)
		}
	}
	if w.replays*50 < n {
		t.Errorf("only %d of %d requests were replays", w.replays, n)
	}
}

// sameLogs fails the test unless both servers give all of the logs of users
// alike.
func sameLogs(t *testing.T, rigs []*rig, users []*wandering) {
	t.Helper()
	for _, user := range users {
		for _, query := range []string{"mutationsSince=-1", "mutationsSince=0", "mutationsSince=-1&history=true"} {
			a, b := rigs[0].get(query, "X-User-Id: "+user.name), rigs[1].get(query, "X-User-Id: "+user.name)
			if a.body != b.body {
				t.Errorf("%s of %s: bolt %.2000s\nPostgreSQL %.2000s", query, user.name, a.body, b.body)
			}
		}
	}
}

// essence is all of an answer that must not depend on the store.
func essence(a answer) map[string]any {
	headers := a.Header.Clone()
	headers.Del("Date")
	headers.Del("X-Request-Id")
	return map[string]any{"status": a.StatusCode, "headers": headers, "body": a.body}
}

// wanderer makes a random sequence of requests, which depends on its seed and on
// the answers.
type wanderer struct {
	rnd      *rand.Rand
	writer   mutlogtest.Writer
	users    []*wandering
	keys     int
	answered map[int]int // by status
	replays  int
}

// wandering is what is known of one user's log.
type wandering struct {
	name   string
	heads  []mutlog.Timestamp // all that were told, the newest last
	pushes []attempt          // what was sent
}

// attempt is a request that need not be a good one.
type attempt struct {
	user              *wandering
	method, uri, body string
	headers           []string
}

func newWanderer(seed uint64) *wanderer {
	w := &wanderer{rnd: rand.New(rand.NewPCG(seed, 0)), answered: map[int]int{}}
	w.writer = mutlogtest.Writer{Rand: w.rnd, Resources: 25}
	return w
}

// meet makes it go on with new users.
func (w *wanderer) meet(generation int) {
	w.users = nil
	for i := range 8 {
		w.users = append(w.users, &wandering{name: fmt.Sprintf("wanderer-%d-%d", generation, i), heads: []mutlog.Timestamp{mutlog.Beginning}})
	}
}

// chance tells true in so many of a hundred cases.
func (w *wanderer) chance(percent int) bool { return w.rnd.IntN(100) < percent }

// learn takes what an answer tells.
func (w *wanderer) learn(r attempt, a answer) {
	w.answered[a.StatusCode]++
	if a.Header.Get("Idempotency-Replayed") != "" {
		w.replays++
	}
	head, err := strconv.ParseInt(a.Header.Get("X-Mutation-At"), 10, 64)
	if u := r.user; err == nil && mutlog.Timestamp(head) > u.heads[len(u.heads)-1] {
		u.heads = append(u.heads, mutlog.Timestamp(head))
	}
}

// next makes a request.
func (w *wanderer) next() attempt {
	u := w.users[w.rnd.IntN(1+w.rnd.IntN(len(w.users)))] // some have long logs, some short ones
	r := attempt{user: u, method: "GET", headers: []string{"X-User-Id: " + u.name}}
	switch n := w.rnd.IntN(100); {
	case n < 40:
		w.push(&r)
		u.pushes = append(u.pushes, r)
	case n < 50 && len(u.pushes) > 0:
		r = u.pushes[len(u.pushes)-1-w.rnd.IntN(min(len(u.pushes), 10))] // as if its answer had been lost
	case n < 55:
		w.push(&r)
		r.body = w.spoil(r.body)
	case n < 92:
		w.pull(&r)
	default:
		r.uri = [...]string{"/v1/sync/limits", "/v1/sync/", "/v1/syncs", "/livez", "/readyz", "/v1/sync"}[w.rnd.IntN(6)]
		r.method = [...]string{"GET", "DELETE", "PUT"}[w.rnd.IntN(3)]
	}
	return r
}

// cursor picks a cursor: the head, an older one, one that never was, or none.
func (w *wanderer) cursor(u *wandering) string {
	head := u.heads[len(u.heads)-1]
	switch n := w.rnd.IntN(40); {
	case n < 24:
		return fmt.Sprint(head)
	case n < 32:
		return fmt.Sprint(u.heads[len(u.heads)-1-w.rnd.IntN(min(len(u.heads), 8))])
	case n < 35:
		return fmt.Sprint(max(int64(head)-w.rnd.Int64N(100), -1))
	case n < 38:
		return [...]string{"-1", "0", "1"}[w.rnd.IntN(3)]
	case n < 39:
		return fmt.Sprint(int64(head) + 1 + w.rnd.Int64N(1000))
	}
	return [...]string{"", "01", "1.5", "-2", "9007199254740992", "x", "1e3"}[w.rnd.IntN(7)]
}

func (w *wanderer) push(r *attempt) {
	r.method = "POST"
	q := url.Values{"lastMutationAt": {w.cursor(r.user)}}
	if w.chance(30) {
		q.Set("merge", "true")
	}
	r.uri = "/v1/sync?" + q.Encode()
	if w.chance(40) {
		if w.chance(80) {
			w.keys++
		}
		r.headers = append(r.headers, fmt.Sprint("Idempotency-Key: key-", w.keys))
	}
	if w.chance(30) {
		r.headers = append(r.headers, fmt.Sprint("X-Client-Id: device-", w.rnd.IntN(3)))
	}
	if w.chance(20) {
		r.headers = append(r.headers, "Prefer: return=minimal")
	}
	mutations := []mutlog.Mutation{}
	if w.chance(97) {
		mutations = w.writer.Batch(12)
	}
	body, err := json.Marshal(map[string]any{"mutations": mutations})
	if err != nil {
		panic(err)
	}
	r.body = string(body)
}

// spoil makes a body one that is refused, or another good one.
func (w *wanderer) spoil(body string) string {
	at := w.rnd.IntN(len(body))
	switch w.rnd.IntN(3) {
	case 0:
		return body[:at]
	case 1:
		return body[:at] + string(rune(' '+w.rnd.IntN(90))) + body[at+1:]
	}
	return body[:at] + body[at:at+w.rnd.IntN(len(body)-at)] + body[at:]
}

func (w *wanderer) pull(r *attempt) {
	q := url.Values{"mutationsSince": {w.cursor(r.user)}}
	maybe := func(percent int, name string, value any) {
		if w.chance(percent) {
			q.Set(name, fmt.Sprint(value))
		}
	}
	maybe(10, "metadataOnly", true)
	maybe(15, "history", true)
	maybe(30, "limit", w.rnd.IntN(30))
	maybe(10, "after", w.cursor(r.user))
	maybe(5, "page", w.rnd.IntN(4))
	maybe(15, "resources", [...]string{"NOTE", "NOTE,TAG_2", "BOOKMARK", "OTHER", "note"}[w.rnd.IntN(5)])
	if r.uri = "/v1/sync?" + q.Encode(); w.chance(10) {
		r.headers = append(r.headers, fmt.Sprintf("If-None-Match: W/%q", fmt.Sprint(r.user.heads[len(r.user.heads)-1])))
	}
}
