package network_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestF27SlowSenders: clients that send a byte now and then, of headers or of a body, are cut in time, and others do
// not notice them: their p99 less than doubles. Spells with and without slow clients alternate, so that a busy machine
// is no excuse and no help; while it looks as if it doubles there are more of them, up to four times as many.
func TestF27SlowSenders(t *testing.T) {
	slow, spells, spell := size(200, 2_000), size(6, 12), 1500*time.Millisecond
	s := start(t, "", 0, nil)
	s.steady("warm", 4)()

	var without, with, ratios []time.Duration
	kept := 0
	ratio := func() float64 { return float64(quantile(ratios, .5)) / 1000 }
	for len(ratios) < spells || ratio() >= 2 && len(ratios) < 4*spells {
		stop := s.steady("without", 4)
		time.Sleep(spell)
		a := stop()
		dawdlers := newDawdlers(t, s, slow)
		stop = s.steady("with", 4)
		time.Sleep(spell)
		b := stop()
		kept += dawdlers.stop()
		ratios = append(ratios, time.Duration(1000*float64(quantile(b, .99))/float64(quantile(a, .99))))
		without, with = append(without, a...), append(with, b...)
	}
	counts(t, "%d slow clients at once: %d requests without them, p99 %v; %d with them, p99 %v; median ratio of %d spells %.2f",
		slow, len(without), quantile(without, .99), len(with), quantile(with, .99), len(ratios), ratio())
	if ratio() >= 2 && quantile(with, .99) > 5*time.Millisecond {
		t.Errorf("the p99 of others grows %.2f-fold", ratio())
	}
	if kept < slow*len(ratios)*3/4 { // some are cut before the spell ends, if connecting so many takes long
		t.Errorf("only %d of %d slow clients were connected: no load", kept, slow*len(ratios))
	}
	if len(with) < 200 {
		t.Errorf("%d requests: no load", len(with))
	}
	s.check()
}

// dawdlers are slow clients, half of them with headers, half with bodies.
type dawdlers struct {
	conns []net.Conn
	done  chan struct{}
	wg    sync.WaitGroup
}

func newDawdlers(t testing.TB, s *server, n int) *dawdlers {
	d := &dawdlers{done: make(chan struct{})}
	for i := range n {
		c, err := s.dial()
		if err != nil {
			t.Errorf("slow client %d: %v", i, err)
			break
		}
		text := "GET /v1/sync?mutationsSince=0 HTTP/1.1\r\nHost: localhost\r\nX-Slow: "
		if i%2 == 1 {
			text = wire("slow", -1, strings.Repeat(" ", 1<<20))[:400]
		}
		io.WriteString(c, text)
		d.conns = append(d.conns, c)
	}
	d.wg.Go(func() {
		for {
			select {
			case <-d.done:
				return
			case <-time.After(300 * time.Millisecond):
			}
			for _, c := range d.conns {
				c.Write([]byte("x"))
			}
		}
	})
	return d
}

// stop closes them and returns how many were still connected.
func (d *dawdlers) stop() (connected int) {
	close(d.done)
	d.wg.Wait()
	for _, c := range d.conns {
		c.SetReadDeadline(time.Now().Add(time.Microsecond))
		if _, err := c.Read(make([]byte, 1)); err != nil && os.IsTimeout(err) {
			connected++
		}
		c.Close()
	}
	return connected
}

// TestF27SlowSendersAreCut: each phase of a request has its time.
func TestF27SlowSendersAreCut(t *testing.T) {
	s := start(t, "", 0, nil, "--read-timeout", "3s")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			c := s.mustDial()
			defer c.Close()
			text, want := "GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", time.Second
			if i%2 == 1 {
				text, want = wire("slow", -1, strings.Repeat(" ", 1000))[:300], 3*time.Second
			}
			begun := time.Now()
			io.WriteString(c, text)
			go func() {
				for {
					if _, err := c.Write([]byte("x")); err != nil {
						return
					}
					time.Sleep(100 * time.Millisecond)
				}
			}()
			c.SetReadDeadline(time.Now().Add(20 * time.Second))
			_, err := io.ReadAll(c)
			if took := time.Since(begun); took < want/2 || took > want+3*time.Second || err != nil && os.IsTimeout(err) {
				t.Errorf("slow client %d was cut after %v, want %v: %v", i, took, want, err)
			}
		})
	}
	wg.Wait()
	counts(t, "20 slow senders cut, headers after 1 s, bodies after 3 s")
}

// TestF28SlowReader: clients that read a long pull slowly get all of it, in one state, and neither hold up those that
// push nor make the file grow.
func TestF28SlowReader(t *testing.T) {
	s := start(t, "", 0, nil)
	head, total := int64(-1), 0
	for i := range 24 { // 24 MB
		head = s.mustPush("big", head, notes(fmt.Sprint(i, "."), 16, 60_000))
		total += 16
	}
	spell := 2 * time.Second
	var before, during int
	var grown int64
	for round := 0; round < 3 || during < before/2 && round < 9; round++ { // more of them while others seem to be slowed down
		stop := s.steady("before", 4)
		time.Sleep(spell)
		before += len(stop())

		readers := make([]*net.TCPConn, 8)
		for i := range readers {
			readers[i] = s.mustDial()
			fmt.Fprint(readers[i], "GET /v1/sync?mutationsSince=-1 HTTP/1.1\r\nHost: localhost\r\nX-User-Id: big\r\nConnection: close\r\n\r\n")
		}
		var wg sync.WaitGroup
		done := make(chan struct{})
		for _, c := range readers {
			wg.Go(func() {
				defer c.Close()
				got := readSlowly(c, done)
				if n := strings.Count(got, `"resource":"NOTE"`); n != total || !strings.HasSuffix(got, fmt.Sprintf(`"timestamp":%d}]}}`+"\n", head)) {
					t.Errorf("a slow reader got %d of %d notes, ending with %.100q", n, total, got[max(0, len(got)-100):])
				}
			})
		}
		sizeBefore := fileSize(t, s.store)
		stop = s.steady("during", 4)
		time.Sleep(spell)
		n := len(stop())
		during += n
		grown = max(grown, fileSize(t, s.store)-sizeBefore-int64(n)*1000)
		close(done)
		wg.Wait()
	}
	counts(t, "8 readers at 100 KB/s of 24 MB: %d requests before, %d meanwhile; the file grew by %d KiB beyond what was pushed", before, during, grown>>10)
	if during < before/2 {
		t.Errorf("slow readers slow others down: %d requests, %d without them", during, before)
	}
	if grown > 16<<20 {
		t.Errorf("the file grew by %d MiB", grown>>20)
	}
	s.check()
}

func fileSize(t testing.TB, path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// readSlowly reads 100 KB/s until done is closed, and then the rest of an answer.
func readSlowly(c net.Conn, done chan struct{}) string {
	var head strings.Builder
	buf := make([]byte, 10<<10)
	for slow := true; slow; {
		select {
		case <-done:
			slow = false
		case <-time.After(100 * time.Millisecond):
			n, err := io.ReadFull(c, buf)
			head.Write(buf[:n])
			if err != nil {
				slow = false
			}
		}
	}
	res, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(head.String()), c)), nil)
	if err != nil {
		return err.Error()
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Sprintf("%d bytes, then %v", len(body), err)
	}
	return string(body)
}

// TestF28StalledReader: a client that does not read at all is cut after its time.
func TestF28StalledReader(t *testing.T) {
	s := start(t, "", 0, nil, "--write-timeout", "1s")
	head := int64(-1)
	for i := range 10 {
		head = s.mustPush("big", head, notes(fmt.Sprint(i, "."), 16, 60_000))
	}
	stalled := make([]*net.TCPConn, 20)
	for i := range stalled {
		stalled[i] = s.mustDial()
		defer stalled[i].Close()
		fmt.Fprint(stalled[i], "GET /v1/sync?mutationsSince=-1 HTTP/1.1\r\nHost: localhost\r\nX-User-Id: big\r\n\r\n")
	}
	time.Sleep(3 * time.Second)
	cut := 0
	for _, c := range stalled {
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if got, err := io.ReadAll(c); len(got) < 9_000_000 && (err == nil || !os.IsTimeout(err)) && !strings.HasSuffix(string(got), "0\r\n\r\n") {
			cut++ // and it cannot take what it got for the whole
		}
	}
	counts(t, "%d of %d readers that did not read were cut after 1 s", cut, len(stalled))
	if cut != len(stalled) {
		t.Error("some were not")
	}
	s.mustPush("big", head, notes("after", 1, 1))
	s.check()
}

// TestF24ManyInOneMillisecond: whatever the rate, timestamps strictly increase, are unique, and none is lost.
func TestF24ManyInOneMillisecond(t *testing.T) {
	s := start(t, "", 0, nil)
	const batches, each = 150, 100
	head := int64(-1)
	begun := time.Now()
	for i := range batches {
		next := s.mustPush("one", head, notes(fmt.Sprint(i, "."), each, 1))
		if next < head+each {
			t.Fatalf("%d mutations after %d end at %d", each, head, next)
		}
		head = next
	}
	took := time.Since(begun)
	var wg sync.WaitGroup
	for i := range 64 { // single mutations of one user at once, each behind what is there
		wg.Go(func() {
			for n := range 10 {
				if r := s.do("POST", "merge=true&lastMutationAt="+fmt.Sprint(head), "one", notes(fmt.Sprint("m", i, ".", n, "."), 1, 1)); r.status != 200 {
					t.Errorf("a merged push is answered %d %.200s", r.status, r.body)
				}
			}
		})
	}
	wg.Wait()
	ids, timestamps := s.history("one")
	if len(ids) != batches*each+640 {
		t.Errorf("%d mutations, want %d", len(ids), batches*each+640)
	}
	if !slices.IsSorted(timestamps) || len(slices.Compact(slices.Clone(timestamps))) != len(timestamps) {
		t.Error("the timestamps do not strictly increase")
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != batches*each+640 {
		t.Error("a mutation is there twice")
	}
	counts(t, "%d mutations in %v, 640 merged at once, all there, in order and unique", batches*each, took.Round(time.Millisecond))
	s.check()
}
