package server_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tidemark/mutlog/mutlogtest"
)

// mobile is an app that knows the base protocol and nothing else: it never
// pages, sends no key, no x-client-id and no Prefer, and reads cursors as 64-bit
// integers. It is written without the types of this module, so that it cannot
// agree with the server by accident.
type mobile struct {
	url    string
	http   *http.Client
	rand   *rand.Rand
	cursor int64             // 0 until it has synced for the first time
	synced map[string]string // "NOTE/id" → data, as the server has it
	queue  []mobileMutation  // edits that the server has not acknowledged
	name   string

	// patient sends a push that got no answer again until there is one; else
	// the app sometimes pulls first, and so makes another push of it.
	patient bool

	edits           int // that have data
	conflicts, lost int // how often it was refused, and got no answer
}

type mobileMutation struct {
	Type       string          `json:"type"`
	Resource   string          `json:"resource"`
	ResourceID string          `json:"resourceId,omitempty"`
	Data       json.RawMessage `json:"data,omitempty"`
	Timestamp  int64           `json:"timestamp,omitempty"`
}

type mobileAnswer struct {
	Success bool `json:"success"`
	Data    struct {
		LastMutationAt int64            `json:"lastMutationAt"`
		Mutations      []mobileMutation `json:"mutations"`
	} `json:"data"`
}

var errOutOfSync = errors.New("409")

// ask makes a request. Its errors are errOutOfSync, errLost, or a fault.
func (m *mobile) ask(method, query string, body []byte) (*mobileAnswer, error) {
	r, err := http.NewRequest(method, m.url+"/v1/sync?"+query, strings.NewReader(string(body)))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := m.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return nil, err
	case res.StatusCode == http.StatusConflict:
		return nil, errOutOfSync
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%s %s: %d %s", method, query, res.StatusCode, text)
	}
	a := &mobileAnswer{}
	if err := json.Unmarshal(text, a); err != nil || !a.Success {
		return nil, fmt.Errorf("%v: %s", err, text)
	}
	return a, nil
}

// edit makes a random change for the next push.
func (m *mobile) edit() {
	e := mobileMutation{Type: "UPDATE", Resource: [...]string{"NOTE", "BOOKMARK"}[m.rand.IntN(2)], ResourceID: fmt.Sprint(m.rand.IntN(12))}
	switch m.rand.IntN(6) {
	case 0: // an id that nobody else gives
		e.Type, e.ResourceID = "CREATE", fmt.Sprintf("%s-%d", m.name, m.edits)
	case 1:
		e.Type = "CREATE"
	case 2:
		e.Type = "CREATE"
		e.ResourceID = "" // the server's choice
	case 3:
		e.Type = "DELETE"
	}
	if e.Type != "DELETE" {
		m.edits++
		members := []string{fmt.Sprintf(`"by":%q`, m.name)}
		for _, name := range []string{"a", "b", "c"} {
			switch m.rand.IntN(4) {
			case 0:
				members = append(members, fmt.Sprintf(`%q:null`, name))
			case 1:
				members = append(members, fmt.Sprintf(`%q:%d.0`, name, m.rand.IntN(100)))
			case 2:
				members = append(members, fmt.Sprintf(`%q:{"n":%d}`, name, m.rand.IntN(100)))
			}
		}
		e.Data = json.RawMessage("{" + strings.Join(members, ",") + "}")
	}
	m.queue = append(m.queue, e)
}

// put takes over the state of a resource from the server.
func (m *mobile) put(e mobileMutation) {
	ref := e.Resource + "/" + e.ResourceID
	if e.Type == "DELETE" {
		delete(m.synced, ref)
	} else {
		m.synced[ref] = string(e.Data)
	}
}

// pull gets all changes in one answer and adopts its head.
func (m *mobile) pull() error {
	a, err := m.ask("GET", fmt.Sprintf("mutationsSince=%d", m.cursor), nil)
	if err != nil {
		return err
	}
	for _, e := range a.Data.Mutations {
		m.put(e)
	}
	m.cursor = a.Data.LastMutationAt
	return nil
}

// push sends the queue in requests of a few mutations, each on the cursor that
// the one before has answered.
func (m *mobile) push() error {
	for len(m.queue) > 0 {
		sent := m.queue[:min(len(m.queue), 1+m.rand.IntN(3))]
		body, err := json.Marshal(map[string]any{"mutations": sent})
		if err != nil {
			return err
		}
		a, err := m.ask("POST", fmt.Sprintf("lastMutationAt=%d", m.cursor), body)
		for errors.Is(err, errLost) && (m.patient || m.rand.IntN(4) > 0) {
			a, err = m.ask("POST", fmt.Sprintf("lastMutationAt=%d", m.cursor), body)
		}
		if err != nil {
			return err
		}
		if err := acknowledges(sent, a.Data.Mutations); err != nil {
			return err
		}
		for _, e := range a.Data.Mutations {
			m.put(e)
		}
		m.cursor = a.Data.LastMutationAt
		m.queue = m.queue[len(sent):]
	}
	return nil
}

// acknowledges is the check of the base client: count, order, type, resource
// and id.
func acknowledges(sent, got []mobileMutation) error {
	if len(got) != len(sent) {
		return fmt.Errorf("%d acknowledgements of %d mutations", len(got), len(sent))
	}
	last := int64(0)
	for i, s := range sent {
		g := got[i]
		if g.Type != s.Type || g.Resource != s.Resource || g.ResourceID == "" || s.ResourceID != "" && g.ResourceID != s.ResourceID {
			return fmt.Errorf("mutation %d is %+v and was acknowledged as %+v", i, s, g)
		}
		if g.Timestamp <= last {
			return fmt.Errorf("acknowledgement %d has the timestamp %d after %d", i, g.Timestamp, last)
		}
		last = g.Timestamp
	}
	return nil
}

// sync pushes, and when it is refused pulls and pushes again, until nothing is
// left to push.
func (m *mobile) sync() error {
	pull := m.cursor == 0 // at first
	for {
		if pull {
			if err := m.pull(); errors.Is(err, errLost) {
				continue
			} else if err != nil {
				return err
			}
		}
		err := m.push()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errOutOfSync):
			m.conflicts++
		case !errors.Is(err, errLost):
			return err
		}
		pull = true
	}
}

var errLost = errors.New("no answer")

// badNetwork loses requests, and answers, of which the client cannot tell which
// it was.
type badNetwork struct {
	next   http.RoundTripper
	mobile *mobile
}

func (b badNetwork) RoundTrip(r *http.Request) (*http.Response, error) {
	fate := b.mobile.rand.IntN(10)
	if fate == 0 {
		return nil, errLost
	}
	res, err := b.next.RoundTrip(r)
	if err == nil && fate < 3 {
		res.Body.Close()
		b.mobile.lost++
		return nil, errLost
	}
	return res, err
}

// A client that never pages, pulls mutationsSince=0 at first, pushes in
// several requests with chained cursors, and checks its acknowledgements,
// converges with others of its kind, whatever the network does.
func TestMobilesConverge(t *testing.T) {
	for _, patient := range []bool{false, true} {
		t.Run(fmt.Sprintf("patient=%v", patient), func(t *testing.T) { mobilesConverge(t, patient) })
	}
}

func mobilesConverge(t *testing.T, patient bool) {
	r := newRig(t)
	const devices, rounds = 5, 12
	seed := mutlogtest.Seed(t)
	newMobile := func(i int) *mobile {
		m := &mobile{url: r.url, name: fmt.Sprintf("m%d", i), patient: patient, synced: map[string]string{}, rand: rand.New(rand.NewPCG(seed, uint64(i)))}
		m.http = &http.Client{Transport: badNetwork{r.http.Transport, m}}
		return m
	}
	mobiles := make([]*mobile, devices)
	var wg sync.WaitGroup
	for i := range mobiles {
		m := newMobile(i)
		mobiles[i] = m
		wg.Go(func() {
			for range rounds {
				for range m.rand.IntN(6) {
					m.edit()
				}
				if err := m.sync(); err != nil {
					t.Errorf("%s: %v", m.name, err)
					return
				}
			}
		})
	}
	wg.Wait()

	// The network is good at last: each pulls once, and one that is new pulls
	// all, from 0 and as a snapshot.
	edits, conflicts, lost := 0, 0, 0
	fresh, snapshot := newMobile(devices), newMobile(devices+1)
	snapshot.cursor = -1
	for _, m := range append(mobiles, fresh, snapshot) {
		m.http.Transport = r.http.Transport
		if err := m.pull(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(mobiles[0].synced, m.synced); diff != "" || m.cursor != mobiles[0].cursor {
			t.Errorf("%s is at %d, %s at %d, and they differ:\n%s", mobiles[0].name, mobiles[0].cursor, m.name, m.cursor, diff)
		}
		edits, conflicts, lost = edits+m.edits, conflicts+m.conflicts, lost+m.lost
	}
	if conflicts == 0 || lost == 0 || len(fresh.synced) < 10 {
		t.Errorf("%d conflicts, %d lost answers, %d resources: that was too easy", conflicts, lost, len(fresh.synced))
	}
	// Each edit was applied exactly once, if the apps did not give up on it. (A
	// DELETE alone is the same push whoever sends it, and so not counted.)
	applied := strings.Count(r.get("mutationsSince=0&history=true").body, `"data":{"by"`)
	if patient && applied != edits || applied < edits {
		t.Errorf("%d edits were applied %d times", edits, applied)
	}
	t.Logf("%d conflicts, %d lost answers, %d resources", conflicts, lost, len(fresh.synced))
}
