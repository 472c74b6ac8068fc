package server_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tidemark/openapitest"
	"tidemark/server"
)

// hostile counts the requests that these tests have sent.
var hostile atomic.Int64

// TestAbuse sends what no client would send. Whatever it is, the answer is exact, nothing changes unless the request is
// a good one after all, and the server goes on.
func TestAbuse(t *testing.T) {
	begun := time.Now()
	t.Run("Table", testAbuseTable)
	t.Run("Pairs", testAbusePairs)
	t.Run("Cuts", testAbuseCuts)
	t.Run("Mutants", testAbuseMutants)
	want := int64(5_000)
	if *long {
		want = 100_000
	}
	t.Logf("%d hostile requests in %v", hostile.Load(), time.Since(begun).Round(time.Second))
	if n := hostile.Load(); n < want && !t.Failed() && allTestsRan() {
		t.Errorf("%d hostile requests, want at least %d", n, want)
	}
}

// summary is the status of an answer and the code of its error.
func summary(got []answer) string {
	if len(got) == 0 {
		return ""
	}
	return strings.TrimSpace(fmt.Sprint(got[0].StatusCode, " ", openapitest.ErrorCode(got[0].Response, []byte(got[0].body))))
}

// messageOf returns the message of an error, or the whole body of anything else.
func messageOf(a answer) string {
	if a.StatusCode < 400 {
		return a.body
	}
	var e struct{ Message string }
	json.Unmarshal([]byte(a.body), &e)
	return e.Message
}

func testAbuseTable(t *testing.T) {
	x := newTarget(t)
	table := abuses()
	before := x.state()
	for _, row := range table {
		t.Run(row.name, func(t *testing.T) {
			x.t = t
			got := x.exchange(row.raw)
			if summary(got) != row.want {
				t.Errorf("%.300q\nanswered %q, want %q", row.raw, summary(got), row.want)
			}
			if len(got) > 0 && row.message != "" && messageOf(got[0]) != row.message {
				t.Errorf("%.300q\nanswered %.300q, want %.300q", row.raw, messageOf(got[0]), row.message)
			}
			if !row.cut {
				x.followed(row)
			}
			after := x.state()
			if (before != after) != row.changes {
				t.Errorf("%.300q: changed the store: %t, want %t", row.raw, before != after, row.changes)
			}
			before = after
			x.stillGood(row.raw)
		})
		if t.Failed() {
			break // what follows would rest on a store that may have changed
		}
	}
	x.t = t
	x.keepsSecrets(t)
	hostile.Add(x.sent.Load())
	t.Logf("%d rows, %d requests", len(table), x.sent.Load())
}

// followed sends a request again with another one behind it: the connection is closed after the first answer, or the
// second request is answered as if nothing had been.
func (x *target) followed(row abuse) {
	x.t.Helper()
	got := x.exchange(row.raw + "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
	switch {
	case len(got) == 0 || len(got) > 2:
		x.t.Errorf("%.300q and a good one: %d answers", row.raw, len(got))
	case len(got) == 2 && (got[1].StatusCode != 200 || got[1].body != "ok\n"):
		x.t.Errorf("%.300q: the request behind it is answered %d %q", row.raw, got[1].StatusCode, got[1].body)
	case len(got) == 1 && !got[0].Close:
		x.t.Errorf("%.300q: the connection was neither closed nor kept", row.raw)
	case row.changes && got[0].Header.Get("Idempotency-Replayed") != "true":
		x.t.Errorf("%.300q: was applied twice", row.raw)
	}
}

// keepsSecrets fails the test if the log has anything of what requests said, but for paths and users.
func (x *target) keepsSecrets(t *testing.T) {
	x.log.mu.Lock()
	defer x.log.mu.Unlock()
	text := x.log.buf.String()
	for _, secret := range []string{"SECRET-1", "SECRET-2", "mutationsSince", "DROP TABLE", "alert(1)"} {
		if strings.Contains(text, secret) {
			t.Errorf("the log tells %q", secret)
		}
	}
	for line := range strings.Lines(text) {
		if !json.Valid([]byte(line)) {
			t.Errorf("a line of the log is no JSON: %q", line)
		}
	}
	if strings.Contains(text, `"level":"ERROR"`) {
		t.Error("a client brought about an error in the log")
	}
}

// TestSmuggling sends what two servers in a row might read differently: whatever this one makes of it, no part of a
// body becomes a request that is obeyed while the connection claims to be in order.
func TestSmuggling(t *testing.T) {
	const hidden = "POST /v1/sync?lastMutationAt=-1 HTTP/1.1\r\nHost: a\r\nX-User-Id: hidden\r\nContent-Type: application/json\r\nContent-Length: 91\r\n\r\n" + goodNote
	const head = "POST /v1/sync?lastMutationAt=-1 HTTP/1.1\r\nHost: a\r\nX-User-Id: front\r\nContent-Type: application/json\r\n"
	for name, raw := range map[string]string{
		"CL.TE":               head + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden),
		"TE.CL":               head + fmt.Sprintf("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden),
		"a space in the name": head + fmt.Sprintf("Transfer-Encoding : chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden),
		"a tab in the value":  head + fmt.Sprintf("Transfer-Encoding:\tchunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden),
		"twice":               head + fmt.Sprintf("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\nContent-Length: %d\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden),
		"two lengths":         head + fmt.Sprintf("Content-Length: 0\r\nContent-Length: %d\r\n\r\n%s", len(hidden), hidden),
		"a bare line feed":    head + fmt.Sprintf("X: y\nTransfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden),
		"in a GET":            "GET /livez HTTP/1.1\r\nHost: a\r\n" + fmt.Sprintf("Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden),
		"HTTP/1.0":            strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1) + fmt.Sprintf("Transfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden),
	} {
		t.Run(name, func(t *testing.T) {
			x := newTarget(t)
			before := x.state()
			got := x.exchange(raw)
			if x.state() != before {
				t.Errorf("%q: the hidden request was obeyed: %d answers", raw, len(got))
			}
			x.stillGood(raw)
			hostile.Add(x.sent.Load())
		})
	}
}

// A draft is a request whose parts are still apart, so that several things can be made wrong with it.
type draft struct {
	method, path, version string
	query                 map[string]string
	headers               []string
	body                  string
}

func (d draft) String() string {
	query := "?"
	for name, value := range d.query {
		query += name + "=" + value + "&"
	}
	return strings.Replace(request(d.method, d.path+strings.TrimRight(query, "?&"), d.body, d.headers...), "HTTP/1.1", d.version, 1)
}

func (d *draft) header(name, value string) {
	d.headers = slices.DeleteFunc(d.headers, func(h string) bool { return strings.HasPrefix(h, name+":") })
	d.headers = append(d.headers, name+": "+value)
}

// A defect is one thing that is wrong, and its answer, which is known by its status, its code and a part of its body.
type defect struct {
	name string
	want string
	part string
	make func(*draft)
}

// pushDefects stand in the order of refusals.
var pushDefects = []defect{
	{"version", "505", "", func(d *draft) { d.version = "HTTP/3.0" }},
	{"headers too long", "431", "", func(d *draft) { d.header("X-Long", strings.Repeat("x", 40<<10)) }},
	{"Transfer-Encoding", "501", "", func(d *draft) { d.header("Transfer-Encoding", "x") }},
	{"NUL in a header", "400", "", func(d *draft) { d.header("X-Nul", "\x00") }},
	{"path", nf, "", func(d *draft) { d.path += "/" }},
	{"method", mna, "", func(d *draft) { d.method = "PUT" }},
	{"user", ir, `"header":"X-User-Id"`, func(d *draft) { d.header("X-User-Id", "") }},
	{"media type", umt, "", func(d *draft) { d.header("Content-Type", "text/plain") }},
	{"encoding", umt, "", func(d *draft) { d.header("Content-Encoding", "gzip") }},
	{"size", ptl, "", func(d *draft) { d.body += strings.Repeat(" ", 1<<20) }},
	{"query", ir, `"parameter":"merge"`, func(d *draft) { d.query["merge"] = "yes" }},
	{"header", ir, `"header":"x-client-id"`, func(d *draft) { d.header("x-client-id", "") }},
	{"key", ir, `"header":"Idempotency-Key"`, func(d *draft) { d.header("Idempotency-Key", `""`) }},
	{"JSON", ir, `"offset":`, func(d *draft) { d.body = strings.Replace(d.body, "]}", "]]", 1) }},
	{"parameter", ve, `"member":"lastMutationAt"`, func(d *draft) { d.query["lastMutationAt"] = "1.5" }},
	{"mutation", ve, `"member":"type"`, func(d *draft) { d.body = strings.Replace(d.body, "CREATE", "UPSERT", 1) }},
	{"reuse", "422 IdempotencyKeyReuseError", "", func(d *draft) {
		if !slices.ContainsFunc(d.headers, func(h string) bool { return strings.HasPrefix(h, "Idempotency-Key") }) {
			d.header("Idempotency-Key", "used")
		}
	}},
	{"cursor", oos, "", func(d *draft) {
		if d.query["lastMutationAt"] == fmt.Sprint(start) {
			d.query["lastMutationAt"] = "7"
		}
	}},
}

var pullDefects = []defect{
	pushDefects[0], pushDefects[1], pushDefects[2], pushDefects[3], pushDefects[4], pushDefects[5], pushDefects[6],
	{"query", ir, `"parameter":"history"`, func(d *draft) { d.query["history"] = "yes" }},
	{"cursor's value", ve, `"member":"mutationsSince"`, func(d *draft) { d.query["mutationsSince"] = "1.5" }}, // which is read first
	{"parameter", ve, `"member":"limit"`, func(d *draft) { d.query["limit"] = "0" }},
	{"cursor", oos, "", func(d *draft) { d.query["mutationsSince"] = "9007199254740991" }},
}

// testAbusePairs makes one, two and three things wrong with a good request: the answer is always that of the first in
// the order of refusals.
func testAbusePairs(t *testing.T) {
	x := newTarget(t)
	used := request("POST", "/v1/sync?lastMutationAt=-1", `{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"z"}]}`, "X-User-Id: pairs", "Idempotency-Key: used")
	if got := x.exchange(used); summary(got) != "200" {
		t.Fatalf("a good push was answered %q", summary(got))
	}
	before := x.state()
	pushes := draft{method: "POST", path: "/v1/sync", version: "HTTP/1.1", query: map[string]string{"lastMutationAt": fmt.Sprint(start)},
		headers: []string{"X-User-Id: pairs"}, body: goodNote}
	pulls := draft{method: "GET", path: "/v1/sync", version: "HTTP/1.1", query: map[string]string{"mutationsSince": "0"},
		headers: []string{"X-User-Id: pairs"}}
	var wg sync.WaitGroup
	slots := make(chan bool, 16) // what net/http refuses may keep its connection for half a second
	try := func(good draft, wrong ...defect) {
		slots <- true
		wg.Go(func() {
			defer func() { <-slots }()
			x.wrong(good, wrong...)
		})
	}
	for _, c := range []struct {
		good  draft
		wrong []defect
	}{{pushes, pushDefects}, {pulls, pullDefects}} {
		for i, first := range c.wrong {
			try(c.good, first)
			behind := c.wrong[i+1:]
			if first.isTransport() { // which has an order of its own
				behind = slices.DeleteFunc(slices.Clone(behind), defect.isTransport)
			}
			for j, second := range behind {
				try(c.good, first, second)
				if first.isTransport() {
					continue
				}
				for _, third := range behind[j+1:] {
					try(c.good, first, second, third)
				}
			}
		}
	}
	wg.Wait()
	if x.state() != before {
		t.Error("the store has changed")
	}
	x.stillGood("pairs")
	hostile.Add(x.sent.Load())
	t.Logf("%d requests", x.sent.Load())
}

// wrong makes a good request wrong in some ways, in the order of refusals.
func (x *target) wrong(good draft, ways ...defect) {
	x.t.Helper()
	d := good
	d.query = maps.Clone(good.query)
	d.headers = slices.Clone(good.headers)
	names := ""
	for i := len(ways) - 1; i >= 0; i-- { // the first one last, so that it is not undone
		ways[i].make(&d)
		names = ways[i].name + ", " + names
	}
	got := x.exchange(d.String())
	if len(got) == 0 || summary(got) != ways[0].want || !strings.Contains(got[0].body, ways[0].part) {
		x.t.Errorf("wrong are %sand the answer is %q %.300v, want %q %s", names, summary(got), got, ways[0].want, ways[0].part)
	}
}

// isTransport tells whether net/http itself refuses it.
func (d defect) isTransport() bool { return !strings.Contains(d.want, " ") }

// goodRequests are requests of every kind, each by a user of its own.
func goodRequests() []string {
	const body = `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"n1","data":{"text":"bon été 😀","n":1.50,"list":[1,{"a":null}]}},` +
		`{"type":"UPDATE","resource":"NOTE","resourceId":"n1","data":{"text":null,"done":true}},{"type":"DELETE","resource":"TAG_2","resourceId":"t"}]}`
	list := []string{
		get("mutationsSince=0"),
		get("mutationsSince=-1", "Accept-Encoding: gzip"),
		get("mutationsSince=0&metadataOnly=true"),
		get("mutationsSince=0&limit=1&after=1700000000000"),
		get("mutationsSince=0&page=1&limit=2", "X-Request-Id: cut"),
		get("mutationsSince=0&history=true&resources=NOTE,TAG"),
		get("mutationsSince=0", `If-None-Match: W/"1700000000002"`),
		raw("GET / HTTP/1.1", "Host: tidemark", "Accept: text/html"),
		raw("GET /v1/sync/limits HTTP/1.1", "Host: tidemark"),
		raw("HEAD /openapi.yaml HTTP/1.1", "Host: tidemark"),
		raw("GET /livez HTTP/1.1", "Host: tidemark"),
	}
	for i, headers := range [][]string{
		{}, {"Idempotency-Key: 01KFTF3G610AAXM7V96YN270J0"}, {"x-client-id: phone", "Prefer: return=minimal"}, {"Accept: application/problem+json"},
	} {
		user := fmt.Sprint("X-User-Id: cut", i)
		list = append(list,
			request("POST", "/v1/sync?lastMutationAt=-1", body, append(headers, user)...),
			request("POST", "/v1/sync?lastMutationAt=-1&merge=true", chunked(body, 50), append(headers, user+"c", "Transfer-Encoding: chunked")...))
	}
	return list
}

// testAbuseCuts cuts every good request at every byte. No piece has an effect, none is answered with success, and the
// whole request works afterwards.
func testAbuseCuts(t *testing.T) {
	x := newTarget(t)
	for _, whole := range goodRequests() {
		before := x.state()
		for n := range len(whole) {
			piece := whole[:n]
			if n%2 == 1 { // the client dies at once
				c := x.dial()
				x.sent.Add(1)
				io.WriteString(c, piece)
				c.SetLinger(int(x.sent.Load() / 2 % 2 * -1)) // sometimes with a reset
				c.Close()
			} else if got := x.exchange(piece); len(got) > 1 || len(got) == 1 && got[0].StatusCode != 400 {
				t.Errorf("%q\ncut at %d is answered %q", piece, n, summary(got))
			}
			if n%16 == 0 || n > len(whole)-8 {
				x.stillGood(piece)
				if x.state() != before {
					t.Fatalf("%q: a piece of a request has changed the store", piece)
				}
			}
		}
		got := x.exchange(whole)
		if len(got) != 1 || got[0].StatusCode != 200 && got[0].StatusCode != 304 {
			t.Errorf("%q\nuncut is answered %q", whole, summary(got))
		}
		if isPush := strings.HasPrefix(whole, "POST"); isPush != (x.state() != before) {
			t.Errorf("%q: changed the store: %t", whole, !isPush)
		}
	}
	hostile.Add(x.sent.Load())
	t.Logf("%d requests", x.sent.Load())
}

// spice is what mutants are made with.
var spice = []string{"\x00", "\r\n", "\n", "\r", " ", "\t", "\"", "'", "\\", "{", "}", "[", "]", ",", ":", ";", "&", "=", "?", "#", "%", "%00", "%zz", "+", "-", "0", "-1", "1e400", "9007199254740992",
	"null", "true", "\xff", "\xc0\x80", "\\u0000", "\\ud800", "é", "\u202e", "../", "/", "//", "*", "<", "X-User-Id: full\r\n", "X-User-Id: other\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 0\r\n",
	"Content-Length: 10\r\n", "Connection: close\r\n", "Expect: 100-continue\r\n", "Content-Encoding: gzip\r\n", "Content-Type: text/plain\r\n", "0\r\n\r\n", "HTTP/1.0", "HTTP/2.0", "merge=true&", "history=true&",
	"lastMutationAt=-1&", "mutationsSince=0&", "limit=1&", "\"data\":{},", "\"type\":\"DELETE\",", "\"resourceId\":\"x\",", strings.Repeat("[", 100), strings.Repeat("x", 300), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"}

var digits = regexp.MustCompile(`[0-9]+`)

// mutant changes a good request at random in some places.
func mutant(r *rand.Rand, good []string) string {
	s := good[r.IntN(len(good))]
	for range 1 + r.IntN(4) {
		at, end := r.IntN(len(s)+1), 0
		end = min(len(s), at+r.IntN(30))
		switch r.IntN(8) {
		case 0: // one byte is another
			if at < len(s) {
				s = s[:at] + string([]byte{byte(r.IntN(256))}) + s[at+1:]
			}
		case 1:
			s = s[:at] + s[end:]
		case 2, 3, 4:
			s = s[:at] + spice[r.IntN(len(spice))] + s[at:]
		case 5:
			s = s[:end] + s[at:end] + s[end:]
		case 6: // the end of another
			other := good[r.IntN(len(good))]
			s = s[:at] + other[r.IntN(len(other)):]
		case 7: // a number is another
			if all := digits.FindAllStringIndex(s, -1); len(all) > 0 {
				place := all[r.IntN(len(all))]
				s = s[:place[0]] + fmt.Sprint(r.Int64()>>r.IntN(64)) + s[place[1]:]
			}
		}
	}
	return s
}

// testAbuseMutants sends good requests that were changed at random. Nothing changes without an answer of 200, every
// answer keeps the contract, and the log stays sound.
func testAbuseMutants(t *testing.T) {
	n, seed := 2_000, uint64(4)
	if *long {
		n, seed = 100_000, uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	good := goodRequests()
	var wg sync.WaitGroup
	const servers = 4
	for i := range servers {
		x := newTarget(t, func(o *server.Options) { o.ReadTimeout = 2 * time.Second })
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			before := x.state()
			for j := range n / servers {
				if j%2_000 == 1_999 { // a log that has grown takes long to compare
					x = newTarget(t, func(o *server.Options) { o.ReadTimeout = 2 * time.Second })
					before = x.state()
				}
				s := mutant(r, good)
				got := x.exchange(s)
				success := slices.ContainsFunc(got, func(a answer) bool { return a.StatusCode == 200 })
				hostile.Add(1)
				if j%8 != 0 && !success {
					continue
				}
				if after := x.state(); after != before {
					if !success {
						t.Errorf("%q\nanswered %q has changed the store", s, summary(got))
					}
					before = after
				}
				if j%64 == 0 && !strings.Contains(s, "X-User-Id: full") {
					x.alive(s)
				}
			}
		})
	}
	wg.Wait()
}

// alive is stillGood where the log of "full" may have grown.
func (x *target) alive(after string) {
	if got := x.exchange(get("mutationsSince=0&metadataOnly=true")); summary(got) != "200" {
		x.t.Errorf("after %.200q a good request is answered %q", after, summary(got))
	}
}
