package faults_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tidemark/faults/pgproxy"
	"tidemark/store/postgrestest"
)

// gaveUp are the errors with which a database gives a transaction up in favour of
// others: what is to be tried again, without a word to the client.
var gaveUp = []string{"40001", "40P01"}

// stateUnknown is the error that tells nothing about what has happened.
const stateUnknown = "40003"

// TestF35EachStatement lets each statement of pushes and pulls of every kind fail,
// one after the other, as an engine does that gives transactions up: no client
// may notice. Of a push whose outcome is unknown it may hear 503, and its repeat
// is then answered as the push would have been.
func TestF35EachStatement(t *testing.T) {
	d := newDatabase(t, postgrestest.Options{})
	s := start(t, d.proxied(), options{})
	s.conversation(t, "the first") // opens connections
	var statements []string
	var want []string
	n := 1 << 20
	for i := range 3 { // the server asks for things by itself in between: the least counts
		statements = nil
		d.proxy.Judge(func(s pgproxy.Statement) pgproxy.Verdict {
			if s.SQL != "SYNC" && !isNotification(s) {
				statements = append(statements, s.SQL)
			}
			return pgproxy.Pass
		})
		want, _ = s.conversation(t, fmt.Sprint("nobody fails ", i))
		d.proxy.Judge(nil)
		n = min(n, len(statements))
	}
	if n < 20 {
		t.Fatalf("the conversation takes only %d statements:\n%s", n, strings.Join(statements, "\n"))
	}
	failed := map[string]int{}
	for _, code := range append(gaveUp, stateUnknown) {
		for i := range n {
			seen, which := 0, ""
			d.proxy.Judge(func(s pgproxy.Statement) pgproxy.Verdict {
				if s.SQL == "SYNC" || isNotification(s) {
					return pgproxy.Pass
				}
				if seen++; seen != i+1 {
					return pgproxy.Pass
				}
				failed[code]++
				which = s.SQL
				return pgproxy.Fail(code)
			})
			got, refused := s.conversation(t, fmt.Sprintf("%s at %d", code, i))
			d.proxy.Judge(nil)
			if refused > 0 && code != stateUnknown {
				t.Errorf("%s at %s: %d requests are answered 503", code, which, refused)
			}
			for j := range want {
				if got[j] != want[j] {
					t.Errorf("%s at %s: step %d is answered\n%s, want\n%s", code, which, j, got[j], want[j])
				}
			}
		}
	}
	s.stop()
	d.sound(t)
	for _, code := range append(gaveUp, stateUnknown) {
		if failed[code]*10 < n*9 {
			t.Errorf("only %d of %d statements failed with %s", failed[code], n, code)
		}
	}
	counts(t, "each of %d statements of a conversation failed with %s and %s, no client noticed; with %s, every repeat found out",
		n, gaveUp[0], gaveUp[1], stateUnknown)
}

// conversation has one device push and pull in every way, as a user of its own,
// and returns the answers, without what depends on the time. What is answered
// with 503 is asked again; refused counts that.
func (s *server) conversation(t *testing.T, user string) (answers []string, refused int) {
	t.Helper()
	head := int64(beginning)
	ask := func(method, query, body, key string) {
		t.Helper()
		for {
			status, answer := s.ask(t, method, strings.ReplaceAll(query, "HEAD", fmt.Sprint(head)), user, body, key)
			if status == http.StatusServiceUnavailable && refused < 10 {
				refused++
				continue
			}
			var told struct {
				Data struct{ LastMutationAt int64 }
			}
			if json.Unmarshal(answer, &told) == nil && status == http.StatusOK {
				head = told.Data.LastMutationAt
			}
			answers = append(answers, fmt.Sprintf("%d %s %s", status, method, timestamps.ReplaceAll(answer, []byte("T"))))
			return
		}
	}
	note := func(id string) string {
		return `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"` + id + `","data":{"text":"` + id + `"}}]}`
	}
	ask("POST", "lastMutationAt=HEAD", note("first"), "")
	ask("POST", "lastMutationAt=HEAD", note("second"), "key")
	ask("POST", "lastMutationAt=HEAD", note("second"), "key")
	ask("POST", "lastMutationAt=1&merge=true", note("third"), "")
	ask("POST", "lastMutationAt=HEAD", `{"mutations":[{"type":"UPDATE","resource":"NOTE","resourceId":"first","data":{"done":true}},{"type":"DELETE","resource":"NOTE","resourceId":"second"}]}`, "")
	ask("POST", "lastMutationAt=1", note("first"), "")
	ask("GET", "mutationsSince=-1", "", "")
	ask("GET", "mutationsSince=0&limit=1", "", "")
	ask("GET", "mutationsSince=0&page=2&limit=1", "", "")
	ask("GET", "mutationsSince=-1&history=true", "", "")
	ask("GET", "mutationsSince=HEAD&metadataOnly=true", "", "")
	return answers, refused
}

var timestamps = regexp.MustCompile(`\b1\d{12}\b`)

// ask sends one request of the protocol.
func (s *server) ask(t *testing.T, method, query, user, body, key string) (status int, answer []byte) {
	t.Helper()
	req, err := http.NewRequest(method, "http://"+s.addr+"/v1/sync?"+query, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-User-Id", user)
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if answer, err = io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, answer
}

// TestF35Storm gives up every twentieth statement of a fleet's pushes and pulls:
// nobody is told anything but 200 and 409.
func TestF35Storm(t *testing.T) {
	d := newDatabase(t, postgrestest.Options{})
	rnd := newRandom(t)
	f := newFleet(t, 8, 3)
	s := start(t, d.proxied(), options{})
	given := atomic.Int64{}
	storm := func(pgproxy.Statement) pgproxy.Verdict {
		if rnd.IntN(20) > 0 {
			return pgproxy.Pass
		}
		given.Add(1)
		return pgproxy.Fail(gaveUp[rnd.IntN(len(gaveUp))])
	}
	stop, wait := f.run(s, newRandom(t))
	f.awaitAcks(50)
	d.proxy.Judge(storm)
	f.awaitAcks(int64(size(500, 20_000)))
	d.proxy.Judge(nil)
	f.awaitAcks(50)
	stop()
	wait()
	d.finish(t, f, s)
	if n := f.refused.Load(); n > 0 {
		t.Errorf("%d requests were answered 503", n)
	}
	if given.Load() < 100 {
		t.Errorf("only %d statements failed", given.Load())
	}
	counts(t, "%d statements failed with %s or %s under load, no client noticed, %s", given.Load(), gaveUp[0], gaveUp[1], f.result())
}

// TestF35Serializable runs the conformance suite of the store on a server whose
// transactions are serializable unless they say otherwise.
func TestF35Serializable(t *testing.T) {
	c := postgrestest.Start(t, postgrestest.Options{Settings: []string{"default_transaction_isolation = serializable"}})
	test := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-run", "^TestConformance$/^postgres$", "./store")
	test.Dir = ".."
	test.Env = append(os.Environ(), "TIDEMARK_TEST_POSTGRES="+c.URL("postgres"), "GOFLAGS=")
	test.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := test.CombinedOutput()
	if err != nil || strings.Contains(string(out), "no tests to run") {
		t.Fatalf("%v\n%s", err, out)
	}
	counts(t, "the conformance suite passes where transactions are serializable by default")
}

// TestF39ReadOnly makes PostgreSQL refuse to write, as after a failover to a server
// that is not yet, or no longer, the first: pushes are told 503, pulls go on, and
// so do pushes, once it writes again.
func TestF39ReadOnly(t *testing.T) {
	d := newDatabase(t, postgrestest.Options{})
	readOnly := func(on string) {
		d.Exec(t, "postgres", "ALTER SYSTEM SET default_transaction_read_only = "+on)
		d.Exec(t, "postgres", "SELECT pg_reload_conf()")
	}
	d.refusesWrites(t, "which writes nothing", func() { readOnly("on") }, func() { readOnly("off") })
}

// TestF39DiskFull fills the disk of the tables.
func TestF39DiskFull(t *testing.T) {
	d := newDatabase(t, postgrestest.Options{})
	disk := d.smallDisk(t)
	d.Exec(t, "postgres", "CREATE TABLESPACE small LOCATION '"+disk+"'")
	d.Exec(t, "postgres", "ALTER DATABASE "+d.name+" SET TABLESPACE small")
	ballast := filepath.Join(disk, "ballast")
	fill := func() {
		f, err := os.Create(ballast)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for size := 1 << 20; size > 0; {
			if _, err := f.Write(make([]byte, size)); err != nil {
				size /= 2
			}
		}
	}
	d.refusesWrites(t, "whose disk is full", fill, func() { os.Remove(ballast) })
}

// refusesWrites tests a database that can be read but not written between spoil
// and mend.
func (d *database) refusesWrites(t *testing.T, what string, spoil, mend func()) {
	t.Helper()
	rnd := newRandom(t)
	f := patientFleet(t, 4, 3)
	f.large = 2000
	s := start(t, d.direct(), options{})
	stop, wait := f.run(s, rnd)
	f.awaitAcks(100)
	spoil()
	await(t, "pushes to be refused", func() bool { return f.refused.Load() > 20 })
	acks := f.acks.Load()
	for range 20 {
		for user := range f.users {
			if status, _ := s.get("/v1/sync?mutationsSince=-1", f.user(user)); status != 200 {
				t.Errorf("a pull from a database %s is answered with %d", what, status)
			}
		}
	}
	if status := s.status("/readyz"); status != 200 {
		t.Errorf("/readyz is answered with %d, while pulls are answered", status)
	}
	mend()
	began := time.Now()
	f.awaitAcks(1)
	took := time.Since(began)
	f.awaitAcks(100)
	stop()
	wait()
	if took > allowed(recovery) {
		t.Errorf("pushes work again after %v", took)
	}
	refused := f.refused.Load()
	d.finish(t, f, s)
	counts(t, "a database %s: %d requests answered 503, all pulls 200, pushes again %d ms after it was mended; %d acks before, %s",
		what, refused, took.Milliseconds(), acks, f.result())
}

// smallDisk mounts a disk of 64 MiB for tables, or skips the test.
func (d *database) smallDisk(t *testing.T) string {
	t.Helper()
	dir := d.Directory(t, "small")
	var owner syscall.Stat_t
	if err := syscall.Stat(dir, &owner); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=64m,mode=0700,uid=%d,gid=%d", owner.Uid, owner.Gid)); err != nil {
		notRun(t, "tmpfs cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}
