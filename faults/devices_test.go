package faults_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const beginning = -1 // the head of an empty log

// batch is one push, and what its device knows of it.
type batch struct {
	user   string
	client string
	key    string
	merge  bool
	base   int64
	body   []byte
	sent   []mutation

	status int   // of the answer; 0 if there was none
	head   int64 // that a 200 told
	found  int64 // its first timestamp in the log, once it was found there
}

// acked tells whether the device was told that the batch is applied.
func (b *batch) acked() bool { return b.status == http.StatusOK }

// unknown tells whether only the log can say whether the batch is applied.
func (b *batch) unknown() bool { return b.status == 0 || b.status == http.StatusServiceUnavailable }

type mutation struct {
	Type       string          `json:"type"`
	Resource   string          `json:"resource"`
	ResourceID string          `json:"resourceId"`
	Data       json.RawMessage `json:"data,omitempty"`
	Timestamp  int64           `json:"timestamp,omitempty"`
}

// fleet is a number of devices that push, and the journal of what they were
// told.
type fleet struct {
	t       testing.TB
	devices int
	users   int
	age     string // a part of the users' names
	large   int    // bytes of data in each mutation, beyond the few that identify it

	// patient devices go on after an answer of 503, and wait for one of 200.
	patient bool

	// record runs fn if what it records counts as told: not any more after a
	// power cut. nil counts all.
	record func(fn func()) bool

	acks    atomic.Int64
	refused atomic.Int64 // requests that were answered with 503

	mu     sync.Mutex
	next   int
	logs   map[string]*journal
	byID   map[string]*batch // by the id of its first mutation
	replay int               // retries that were recognised
	anew   int               // retries that were applied
}

// journal is what is known of the log of one user.
type journal struct {
	batches  []*batch // since it was last settled
	verified int64    // the log up to here was compared with batches
	told     int64    // the highest head that anybody was told
}

func newFleet(t testing.TB, devices, users int) *fleet {
	return &fleet{t: t, devices: devices, users: users, logs: map[string]*journal{}, byID: map[string]*batch{}}
}

// adopt takes over what another fleet has had acknowledged.
func (f *fleet) adopt(other *fleet) {
	for id, b := range other.byID {
		copied := *b
		f.byID[id] = &copied
		log := f.journal(b.user)
		log.batches = append(log.batches, &copied)
		log.told = max(log.told, b.head)
	}
}

func (f *fleet) user(i int) string { return fmt.Sprintf("user-%d%s", i%f.users, f.age) }

// forget makes the fleet go on with users who have no log yet: a large one makes
// each comparison slow.
func (f *fleet) forget() {
	f.age = fmt.Sprintf(".%d", f.next)
	f.logs, f.byID = map[string]*journal{}, map[string]*batch{}
}

func (f *fleet) journal(user string) *journal {
	if f.logs[user] == nil {
		f.logs[user] = &journal{verified: beginning, told: beginning}
	}
	return f.logs[user]
}

// newBatch makes a batch that no other is like.
func (f *fleet) newBatch(rnd *rand.Rand, device int, base int64) *batch {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next++
	b := &batch{user: f.user(device), base: base, found: beginning}
	switch device % 4 {
	case 0:
		b.key = fmt.Sprintf("key-%d", f.next)
	case 1:
		b.client = fmt.Sprintf("device-%d", device)
	case 2:
		b.key, b.merge = fmt.Sprintf("key-%d", f.next), true
	}
	for i := range 1 + rnd.IntN(5) {
		m := mutation{Type: "CREATE", Resource: "NOTE", ResourceID: fmt.Sprintf("%d.%d", f.next, i)}
		if i > 0 {
			m.Type = [...]string{"CREATE", "UPDATE", "DELETE"}[rnd.IntN(3)]
		}
		if i == 4 {
			m.Type, m.ResourceID = "UPDATE", fmt.Sprintf("shared-%d", rnd.IntN(10))
		}
		if m.Type != "DELETE" {
			m.Data = fmt.Appendf(nil, `{"batch":%d,"n":%d,"text":"%0*d"}`, f.next, i, f.large+rnd.IntN(200), rnd.Uint64())
		}
		b.sent = append(b.sent, m)
	}
	b.body, _ = json.Marshal(map[string]any{"mutations": b.sent})
	f.journal(b.user).batches = append(f.journal(b.user).batches, b)
	f.byID[b.sent[0].ResourceID] = b
	return b
}

// push sends b and notes the answer.
func (f *fleet) push(s *server, b *batch) (status int, header http.Header) {
	req, err := http.NewRequest("POST", fmt.Sprintf("http://%s/v1/sync?lastMutationAt=%d&merge=%t", s.addr, b.base, b.merge), bytes.NewReader(b.body))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-User-Id", b.user)
	req.Header.Set("Prefer", "return=minimal")
	if b.client != "" {
		req.Header.Set("X-Client-Id", b.client)
	}
	if b.key != "" {
		req.Header.Set("Idempotency-Key", b.key)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return 0, nil
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, nil
	}
	var answer struct {
		Data struct {
			LastMutationAt int64 `json:"lastMutationAt"`
		} `json:"data"`
	}
	if res.StatusCode == http.StatusOK {
		if err := json.Unmarshal(body, &answer); err != nil {
			f.t.Errorf("a 200 with the body %q: %v", body, err)
		}
	}
	note := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if b.status = res.StatusCode; !b.acked() {
			return
		}
		b.head = answer.Data.LastMutationAt
		log := f.journal(b.user)
		log.told = max(log.told, b.head)
		f.acks.Add(1)
	}
	if f.record == nil {
		note()
	} else if !f.record(note) {
		return 0, nil
	}
	switch res.StatusCode {
	case http.StatusOK, http.StatusConflict:
	case http.StatusServiceUnavailable:
		f.refused.Add(1)
	default:
		f.t.Errorf("a push is answered with %d: %s", res.StatusCode, body)
	}
	return res.StatusCode, res.Header
}

// head asks for the head of a log; ok is false if there was no answer.
func (f *fleet) head(s *server, user string) (head int64, ok bool) {
	status, body := s.get("/v1/sync?mutationsSince=0&metadataOnly=true", user)
	var answer struct {
		Data struct {
			LastMutationAt int64 `json:"lastMutationAt"`
		} `json:"data"`
	}
	switch {
	case status == http.StatusServiceUnavailable:
		f.refused.Add(1)
		return 0, false
	case status != http.StatusOK || json.Unmarshal(body, &answer) != nil:
		return 0, false
	}
	head = answer.Data.LastMutationAt
	note := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		log := f.journal(user)
		log.told = max(log.told, head)
	}
	if f.record == nil {
		note()
	} else if !f.record(note) {
		return 0, false
	}
	return head, true
}

// run lets all devices push, and as many read, until the server is gone or stop
// is called. wait returns when all have ended.
func (f *fleet) run(s *server, rnd *rand.Rand) (stop, wait func()) {
	var stopped atomic.Bool
	var wg sync.WaitGroup
	for d := range f.devices {
		rnd := rand.New(rand.NewPCG(rnd.Uint64(), rnd.Uint64()))
		wg.Go(func() { f.device(s, d, rnd, &stopped) })
	}
	for u := range f.users {
		wg.Go(func() {
			for !stopped.Load() {
				if _, ok := f.awaitHead(s, f.user(u), &stopped); !ok {
					return
				}
				time.Sleep(time.Millisecond)
			}
		})
	}
	return func() { stopped.Store(true) }, wg.Wait
}

// device pushes one batch after the other; when one was refused it takes the
// head of the log, since others push to the same.
func (f *fleet) device(s *server, number int, rnd *rand.Rand, stopped *atomic.Bool) {
	base, ok := f.awaitHead(s, f.user(number), stopped)
	for ok && !stopped.Load() {
		b := f.newBatch(rnd, number, base)
		switch status, _ := f.push(s, b); status {
		case http.StatusOK:
			base = b.head
			if rnd.IntN(20) == 0 { // as if the answer had been lost
				f.again(s, b)
			}
		case 0:
			return
		default:
			base, ok = f.awaitHead(s, f.user(number), stopped)
		}
	}
}

// awaitHead asks for the head of a log, patient devices until they are told.
func (f *fleet) awaitHead(s *server, user string, stopped *atomic.Bool) (head int64, ok bool) {
	for {
		if head, ok = f.head(s, user); ok || !f.patient || stopped.Load() || s.gone() {
			return head, ok
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// again sends an acknowledged batch once more: it must be answered as before.
func (f *fleet) again(s *server, b *batch) {
	head := b.head
	retry := *b
	switch status, header := f.push(s, &retry); {
	case status == http.StatusOK && (retry.head != head || header.Get("Idempotency-Replayed") != "true"):
		f.t.Errorf("a repeat of an acknowledged push is applied again: head %d, then %d", head, retry.head)
	case status == http.StatusConflict:
		f.t.Errorf("a repeat of an acknowledged push is refused")
	}
}

// awaitAcks waits for n further acks, so that no fault meets an idle server. It
// does so for as long as there are any.
func (f *fleet) awaitAcks(n int64) {
	f.t.Helper()
	for from, last := f.acks.Load(), int64(-1); last < from+n; {
		await(f.t, fmt.Sprintf("%d acknowledged pushes", n), func() bool { return f.acks.Load() > max(last, from) })
		last = f.acks.Load()
	}
}

// verify compares what the server has with what the devices were told: nothing
// that was acknowledged is lost, nothing is there twice, or in part, or altered,
// or out of nowhere, and no head is lower than one that was told. all begins
// with the first mutation; else what was verified before is left out.
func (f *fleet) verify(s *server, all bool) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if all {
		for _, b := range f.byID {
			b.found = beginning
		}
	}
	for user, log := range f.logs {
		expected := log.batches
		if all {
			log.verified = beginning
			expected = slices.Collect(maps.Values(f.byID))
		}
		status, body := s.get(fmt.Sprintf("/v1/sync?history=true&mutationsSince=%d", log.verified), user)
		var answer struct {
			Data struct {
				LastMutationAt int64      `json:"lastMutationAt"`
				Mutations      []mutation `json:"mutations"`
			} `json:"data"`
		}
		if status != http.StatusOK {
			f.t.Fatalf("the history of %s behind %d: %d %s", user, log.verified, status, body)
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			f.t.Fatal(err)
		}
		if answer.Data.LastMutationAt < log.told {
			f.t.Errorf("LOST: the head of %s is %d, and was told to be %d", user, answer.Data.LastMutationAt, log.told)
		}
		f.match(user, log, answer.Data.Mutations)
		if log.verified != answer.Data.LastMutationAt {
			f.t.Errorf("the history of %s ends with %d, and its head is %d", user, log.verified, answer.Data.LastMutationAt)
		}
		for _, b := range expected {
			if b.user == user && b.acked() && b.found == beginning {
				f.t.Errorf("LOST: %s has no batch %s, which was acknowledged with head %d", user, b.sent[0].ResourceID, b.head)
			}
		}
	}
}

// match finds the batches that got stands for.
func (f *fleet) match(user string, log *journal, got []mutation) {
	f.t.Helper()
	for len(got) > 0 {
		b := f.byID[got[0].ResourceID]
		switch {
		case b == nil || b.user != user:
			f.t.Fatalf("%s has a mutation of nowhere: %+v", user, got[0])
		case b.found != beginning:
			f.t.Errorf("TWICE: %s has batch %s at %d and %d", user, b.sent[0].ResourceID, b.found, got[0].Timestamp)
		case len(got) < len(b.sent):
			f.t.Fatalf("HALF: %s has %d of the %d mutations of batch %s", user, len(got), len(b.sent), b.sent[0].ResourceID)
		}
		b.found = got[0].Timestamp
		for i, m := range b.sent {
			m.Timestamp = b.found + int64(i)
			if !same(m, got[i]) {
				f.t.Fatalf("HALF or ALTERED: mutation %d of batch %s of %s is %+v and should be %+v", i, b.sent[0].ResourceID, user, got[i], m)
			}
		}
		last := b.found + int64(len(b.sent)) - 1
		if b.found <= log.verified || b.acked() && last != b.head {
			f.t.Errorf("batch %s of %s is at %d to %d, behind %d, and was acknowledged with %d", b.sent[0].ResourceID, user, b.found, last, log.verified, b.head)
		}
		log.verified = last
		got = got[len(b.sent):]
	}
}

func same(a, b mutation) bool {
	return a.Type == b.Type && a.Resource == b.Resource && a.ResourceID == b.ResourceID &&
		bytes.Equal(a.Data, b.Data) && a.Timestamp == b.Timestamp
}

// resolve sends again what got no answer. What the log has must be recognised,
// what it does not have must be applied or refused.
func (f *fleet) resolve(s *server) {
	f.t.Helper()
	for user, log := range f.logs {
		for _, b := range log.batches {
			if !b.unknown() {
				continue
			}
			status, header := f.push(s, b)
			tries := 0
			for ; f.patient && status == http.StatusServiceUnavailable && tries < 5; tries++ {
				status, header = f.push(s, b)
			}
			replayed := header.Get("Idempotency-Replayed") == "true"
			switch {
			case b.found != beginning && (status != http.StatusOK || !replayed || b.head != b.found+int64(len(b.sent))-1):
				f.t.Fatalf("batch %s of %s is in the log at %d, and its repeat is answered with %d, head %d, replayed %t",
					b.sent[0].ResourceID, user, b.found, status, b.head, replayed)
			case b.found == beginning && replayed && tries == 0: // else an earlier try may have been applied
				f.t.Fatalf("batch %s of %s is not in the log, and its repeat is recognised", b.sent[0].ResourceID, user)
			case replayed:
				f.replay++
			case status == http.StatusOK:
				f.anew++
			case status != http.StatusConflict:
				f.t.Fatalf("the repeat of batch %s of %s is answered with %d", b.sent[0].ResourceID, user, status)
			}
		}
	}
}

// settle is what follows every fault: the log is compared, the open ends are
// tried again, and the log is compared again.
func (f *fleet) settle(s *server) {
	f.t.Helper()
	f.verify(s, false)
	f.resolve(s)
	f.verify(s, false)
	if f.t.Failed() {
		f.t.FailNow()
	}
	for _, log := range f.logs { // all is known of these: later cycles look at their own
		log.batches = log.batches[:0]
	}
}

// result is the part of the line that all rows end with.
func (f *fleet) result() string {
	lost := "0 lost, 0 twice, 0 half applied"
	if f.t.Failed() {
		lost = "FAILED"
	}
	return fmt.Sprintf("%s acks, %d unanswered found and %d applied by a retry, %s", thousands(f.acks.Load()), f.replay, f.anew, lost)
}

func thousands(n int64) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return strings.TrimSpace(s)
}
