package network_test

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// TestF25ClientDies: a device that dies after it has sent a push has it applied or not; its repeat finds out, and it is
// applied once.
func TestF25ClientDies(t *testing.T) {
	s := start(t, "", 0, nil)
	users, pushes := 8, size(40, 2_000)
	var fresh, replayed, cut atomic.Int64
	var wg sync.WaitGroup
	for u := range users {
		wg.Go(func() {
			user, head := fmt.Sprint("dies-", u), int64(-1)
			for i := range pushes {
				body := notes(fmt.Sprint(i, "."), 3, 50+i%7*1000)
				var headers []string
				if i%2 == 0 {
					headers = []string{fmt.Sprintf("Idempotency-Key: key-%d-%d", u, i)}
				}
				text := wire(user, head, body, headers...)
				c := s.mustDial()
				switch i % 5 {
				case 0: // dies at once
					io.WriteString(c, text)
					c.SetLinger(0)
				case 1: // after a moment
					io.WriteString(c, text)
					time.Sleep(time.Duration(i%4) * 300 * time.Microsecond)
					c.SetLinger(0)
				case 2: // says goodbye
					io.WriteString(c, text)
				case 3: // with one byte missing
					io.WriteString(c, text[:len(text)-1])
					cut.Add(1)
				case 4: // reads a part of the answer
					io.WriteString(c, text)
					c.SetReadDeadline(time.Now().Add(5 * time.Second))
					c.Read(make([]byte, 20))
				}
				c.Close()
				r := s.push(user, head, body, headers...)
				if r.status != 200 {
					t.Errorf("the repeat of push %d is answered %d %.200s", i, r.status, r.body)
					return
				}
				if r.replayed() {
					replayed.Add(1)
					if i%5 == 3 {
						t.Errorf("a push with one byte missing was applied")
					}
				} else {
					fresh.Add(1)
				}
				head = r.head()
			}
			ids, _ := s.history(user)
			if len(ids) != 3*pushes {
				t.Errorf("%s has %d mutations, want %d", user, len(ids), 3*pushes)
			}
			slices.Sort(ids)
			if len(slices.Compact(ids)) != 3*pushes {
				t.Errorf("%s has a mutation twice", user)
			}
		})
	}
	wg.Wait()
	counts(t, "%d pushes of devices that died: %d had been applied, %d not, %d of them cut short", users*pushes, replayed.Load(), fresh.Load(), cut.Load())
	if replayed.Load() < int64(users*pushes/10) || fresh.Load() < int64(users*pushes/10) {
		t.Error("one of the two did not happen: no test")
	}
	s.check()
}

// TestF26AnswerLost: the server applies a push, and a part of the answer gets lost on the way, or all of it. The device
// repeats the push until it hears, with a key or without, at once or after it has pulled: each is applied once, and
// every repeat gets the answer that was lost.
func TestF26AnswerLost(t *testing.T) {
	s := start(t, "", 0, nil)
	var lost atomic.Int64
	proxy := httptest.NewServer(s.losing(0.4, &lost))
	defer proxy.Close()
	users, pushes := 8, size(60, 3_000)
	var replayed atomic.Int64
	begun := time.Now()
	var wg sync.WaitGroup
	for u := range users {
		wg.Go(func() {
			far := *s // the server as it is seen through the proxy
			far.addr = proxy.Listener.Addr().String()
			user, head := fmt.Sprint("loses-", u), int64(-1)
			for i := range pushes {
				body, base := notes(fmt.Sprint(i, "."), 1+i%3, 50+i%7*1000), head
				var headers []string
				if i%2 == 0 {
					headers = []string{fmt.Sprintf("Idempotency-Key: key-%d-%d", u, i)}
				}
				r, tries := far.push(user, base, body, headers...), 1
				for ; r.status == 0 && tries < 100; tries++ {
					if len(headers) > 0 && tries%2 == 0 { // who has a key may pull first
						if now := s.do("GET", "mutationsSince=0&metadataOnly=true", user, "").head(); now >= 0 {
							base = now
						}
					}
					r = far.push(user, base, body, headers...)
				}
				again := tries > 1 || len(headers) > 0 && r.replayed() // net/http itself repeats a push that has a key
				if r.status != 200 || r.replayed() != again || r.head() < head+int64(1+i%3) {
					t.Errorf("push %d of %s is answered %d at try %d, replayed %t, head %d after %d: %.200s", i, user, r.status, tries, r.replayed(), r.head(), head, r.body)
					return
				}
				if r.replayed() {
					replayed.Add(1)
				}
				head = r.head()
			}
			var want []string
			for i := range pushes {
				for j := range 1 + i%3 {
					want = append(want, fmt.Sprintf("%d.%d", i, j))
				}
			}
			if ids, _ := s.history(user); !slices.Equal(ids, want) {
				t.Errorf("%s has %d mutations, want %d in the order of the pushes", user, len(ids), len(want))
			}
		})
	}
	wg.Wait()
	rate := float64(users*pushes) / time.Since(begun).Seconds()
	counts(t, "%d pushes, %d answers lost, %d repeats answered as the first, each push applied once, %.0f pushes/s", users*pushes, lost.Load(), replayed.Load(), rate)
	if lost.Load() < int64(users*pushes/4) || replayed.Load() < int64(users*pushes/8) || rate < 10 {
		t.Error("too little was lost, or done")
	}
	s.check()
}

// losing passes requests on to the server, and loses the answer to a part of the pushes: all of it, or its end.
func (s *server) losing(part float64, lost *atomic.Int64) http.Handler {
	direct := &http.Transport{MaxIdleConnsPerHost: 100}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host, out.RequestURI, out.Host = "http", s.addr, "", s.addr
		res, err := direct.RoundTrip(out)
		if err != nil {
			s.t.Errorf("the server does not answer: %v", err)
			panic(http.ErrAbortHandler)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			s.t.Errorf("the server answers by half: %v", err)
		}
		if rand.Float64() >= part {
			maps.Copy(w.Header(), res.Header)
			w.WriteHeader(res.StatusCode)
			w.Write(body)
			return
		}
		lost.Add(1)
		if rand.IntN(2) == 0 {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
			w.WriteHeader(res.StatusCode)
			w.Write(body[:rand.IntN(len(body))])
			http.NewResponseController(w).Flush()
		}
		panic(http.ErrAbortHandler)
	})
}

// TestF31Terminate: on SIGTERM whoever is in the middle of something gets an answer or a closed connection, the server
// exits with 0 within 15 s even with clients that do nothing, and nothing that was acknowledged is lost.
func TestF31Terminate(t *testing.T) {
	for round := range size(1, 5) {
		for _, stalled := range []bool{false, true} {
			s := start(t, "", 0, nil)
			head := int64(-1)
			for i := range 10 {
				head = s.mustPush("big", head, notes(fmt.Sprint(i, "."), 16, 60_000))
			}
			var acked sync.Map
			var answers, closed, refused atomic.Int64
			var wg sync.WaitGroup
			for i := range 50 { // devices that push as fast as they can, until they cannot
				wg.Go(func() {
					user, head := fmt.Sprint("busy-", i), int64(-1)
					for n := 0; ; n++ {
						r := s.push(user, head, notes(fmt.Sprint(n, "."), 2, 100))
						switch r.status {
						case 200:
							head = r.head()
							acked.Store(user, n+1)
							answers.Add(1)
							continue
						case 0:
							closed.Add(1)
						case 503:
							refused.Add(1)
						default:
							t.Errorf("answered %d %.200s", r.status, r.body)
						}
						return
					}
				})
			}
			if stalled {
				for i := range 20 {
					c := s.mustDial()
					defer c.Close()
					switch i % 4 {
					case 0: // a body that does not come
						io.WriteString(c, wire("stalled", -1, strings.Repeat(" ", 1000))[:500])
					case 1: // an answer that is not read
						fmt.Fprint(c, "GET /v1/sync?mutationsSince=-1 HTTP/1.1\r\nHost: localhost\r\nX-User-Id: big\r\n\r\n")
					case 2: // headers that do not come
						io.WriteString(c, "GET / HT")
					case 3: // nothing
					}
				}
			}
			time.Sleep(500 * time.Millisecond)
			before := answers.Load()
			took := s.stop()
			wg.Wait()
			// A connection that has not sent anything yet is given 5 s.
			if took > 15*time.Second || !stalled && took > allowed(8*time.Second) {
				t.Errorf("the end took %v", took)
			}
			if before < 50 {
				t.Errorf("%d answers before the end: no load", before)
			}
			s.check()
			again := start(t, s.store, 0, nil)
			lost := 0
			acked.Range(func(user, n any) bool {
				if ids, _ := again.history(user.(string)); len(ids) < 2*n.(int) || len(ids) > 2*n.(int)+2 {
					t.Errorf("%s has %d mutations after %d acknowledged pushes of 2", user, len(ids), n)
					lost++
				}
				return true
			})
			counts(t, "round %d, stalled clients %t: ended after %v; %d pushes acknowledged, %d lost; then %d connections closed, %d answers 503",
				round, stalled, took.Round(time.Millisecond), answers.Load(), lost, closed.Load(), refused.Load())
			again.check()
		}
	}
}

// TestF21Descriptors: a process that may open 64 files, and 200 connections. What it refuses it refuses in words, the
// store keeps its file, and when the connections are gone all is as before.
func TestF21Descriptors(t *testing.T) {
	s := start(t, "", 64, nil)
	s.besieged(200, true)
}

// TestF21DescriptorsTaken: as above, but the limit is lowered under the running server, so that it counts on files that
// it cannot open: accepting fails, and is tried again until it works.
func TestF21DescriptorsTaken(t *testing.T) {
	s := start(t, "", 256, nil)
	var limit = [2]uint64{40, 256}
	if _, _, errno := syscall.Syscall6(syscall.SYS_PRLIMIT64, uintptr(s.cmd.Process.Pid), syscall.RLIMIT_NOFILE, uintptr(unsafe.Pointer(&limit)), 0, 0, 0); errno != 0 {
		t.Fatal(errno)
	}
	s.besieged(200, false)
}

// besieged opens n connections that do nothing, and looks at what becomes of the server.
func (s *server) besieged(n int, inWords bool) {
	t := s.t
	t.Helper()
	head := s.mustPush("held", -1, notes("before", 10, 100))
	s.http.CloseIdleConnections()
	conns := make([]net.Conn, 0, n)
	for range n {
		if c, err := s.dial(); err == nil {
			io.WriteString(c, wire("siege", -1, strings.Repeat(" ", 1000))[:300])
			conns = append(conns, c)
		}
	}
	time.Sleep(200 * time.Millisecond)
	refused, closed, open := 0, 0, 0
	for _, c := range conns {
		c.SetReadDeadline(time.Now().Add(2 * time.Millisecond))
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		switch {
		case err == nil && res.StatusCode == 503 && res.Header.Get("Retry-After") != "":
			refused++
		case err == nil:
			t.Errorf("one of too many connections is answered %d", res.StatusCode)
		case os.IsTimeout(err):
			open++
		default:
			closed++
		}
	}
	files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.cmd.Process.Pid))
	if !s.alive() {
		t.Fatal("the server has ended")
	}
	if !inWords && len(files) < 40 {
		t.Errorf("%d files are open: the limit was not met", len(files))
	}
	if inWords && (refused == 0 || open > 64) {
		t.Errorf("%d connections were refused in words, %d closed, %d are open", refused, closed, open)
	}
	for _, c := range conns {
		c.Close()
	}
	begun := time.Now()
	for s.push("held", head, notes("after", 10, 100)).status != 200 {
		if time.Since(begun) > allowed(5*time.Second) {
			t.Fatal("the server does not recover")
		}
		time.Sleep(5 * time.Millisecond)
	}
	recovered := time.Since(begun)
	stop := s.steady("after", 4)
	time.Sleep(500 * time.Millisecond)
	requests := len(stop())
	counts(t, "%d connections: %d held, %d refused in words, %d closed, %d files open; recovered after %v, then %d requests",
		len(conns), open, refused, closed, len(files), recovered.Round(time.Millisecond), requests)
	if requests < 50 {
		t.Errorf("%d requests afterwards", requests)
	}
	s.check()
}

// TestF20Memory: little memory and much to do. What does not fit is refused with 413 or 503 before it takes memory, and
// the process stays within a small multiple of what it was given.
func TestF20Memory(t *testing.T) {
	const limit = 64 // MiB
	s := start(t, "", 0, []string{fmt.Sprintf("GOMEMLIMIT=%dMiB", limit)})
	head := int64(-1)
	for i := range 8 { // 104 notes of 64 KB, so that an answer can be 6.5 MB
		head = s.mustPush("big", head, notes(fmt.Sprint(i, "."), 13, 65_000))
	}
	var deletes strings.Builder
	for i := range 8 {
		for j := range 12 {
			fmt.Fprintf(&deletes, `,{"type":"DELETE","resource":"NOTE","resourceId":"%d.%d"}`, i, j)
		}
	}
	stale := `{"mutations":[` + deletes.String()[1:] + `]}`
	faults := `{"mutations":[` + strings.Repeat(`{"type":"x","resource":"y"},`, 99) + `{}]}`
	large := notes("n", 16, 60_000) // 1 MB
	names := `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"x","data":{` + members(80_000) + `}}]}`

	for _, phase := range []struct {
		name    string
		request func(i int) reply
		allowed []int
		want    int // at least one of these
	}{
		{"bodies of 1 MB", func(i int) reply { return s.push(fmt.Sprint("large-", i), -1, large) }, []int{200, 409, 503}, 200},
		{"bodies of 80,000 names", func(i int) reply { return s.push(fmt.Sprint("names-", i), -1, names) }, []int{422, 503}, 422},
		{"bodies of 2 MB", func(i int) reply { return s.push("huge", -1, large+large) }, []int{413, 503, 0}, 413},
		{"refusals of 6 MB", func(i int) reply { return s.push("big", 0, stale) }, []int{409, 503}, 409},
		{"refusals of many faults", func(i int) reply { return s.push("big", 0, faults) }, []int{422, 503}, 422},
		{"pulls of 6 MB", func(i int) reply { return s.do("GET", "mutationsSince=-1", "big", "", "Accept-Encoding: zstd") }, []int{200, 503}, 200},
		{"histories", func(i int) reply {
			return s.do("GET", "mutationsSince=0&history=true", "big", "", "Accept-Encoding: gzip")
		}, []int{200, 503}, 200},
	} {
		stop := s.watchMemory()
		var answers tally
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				for range size(2, 20) {
					answers.add(phase.request(i).status)
				}
			})
		}
		wg.Wait()
		peak := stop()
		counts(t, "GOMEMLIMIT=%dMiB, 100 clients, %s: %v, peak %d MiB", limit, phase.name, answers.n, peak)
		answers.only(t, phase.allowed...)
		if answers.n[phase.want] == 0 {
			t.Errorf("%s: none was answered %d: no test", phase.name, phase.want)
		}
		if peak > 4*limit && !underRace {
			t.Errorf("%s: %d MiB", phase.name, peak)
		}
		if !s.alive() {
			t.Fatal("the server has ended")
		}
	}

	stop := s.watchMemory()
	stalled := 0
	for range 300 { // that ask for 6.5 MB each and do not read
		if c, err := s.dial(); err == nil {
			defer c.Close()
			if stalled%2 == 0 {
				fmt.Fprint(c, "GET /v1/sync?mutationsSince=-1 HTTP/1.1\r\nHost: localhost\r\nX-User-Id: big\r\n\r\n")
			} else {
				io.WriteString(c, wire("big", 0, stale))
			}
			stalled++
		}
	}
	time.Sleep(2 * time.Second)
	var answers tally
	begun := time.Now()
	for range 20 {
		answers.add(s.do("GET", "mutationsSince=0&metadataOnly=true", "big", "").status)
	}
	took := time.Since(begun)
	deadline := time.Now().Add(60 * time.Second)
	for s.push("big", head, notes("after", 1, 10)).status != 200 {
		if time.Now().After(deadline) {
			t.Fatal("stalled readers keep the server from taking a push for a minute")
		}
		answers.add(503)
	}
	peak := stop()
	counts(t, "GOMEMLIMIT=%dMiB, %d clients that ask for 6.5 MB and do not read: peak %d MiB; 20 heads in %v, a push after %v, %v",
		limit, stalled, peak, took.Round(time.Millisecond), time.Since(begun).Round(time.Millisecond), answers.n)
	answers.only(t, 200, 503)
	if peak > 4*limit && !underRace {
		t.Errorf("%d MiB", peak)
	}
	s.check()
}

// members is n members of a JSON object.
func members(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"%x":0`, i)
	}
	return b.String()[1:]
}
