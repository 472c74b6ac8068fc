package history

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// answerTimeout is how long a device waits for an answer.
const answerTimeout = 10 * time.Second

var (
	// errLost says that there was no whole answer; what the request did is
	// unknown.
	errLost = errors.New("the answer was lost")

	// errHung says that the server took longer than any answer may take.
	errHung = errors.New("the server does not answer")
)

// wire is one device's connection to a server.
type wire struct {
	base   string // http://host:port
	user   string
	client *http.Client
}

func newWire(addr, user string) *wire {
	return &wire{"http://" + addr, user, &http.Client{Transport: &http.Transport{DisableCompression: true}, Timeout: answerTimeout}}
}

func (w *wire) close() { w.client.CloseIdleConnections() }

// push sends p. If hangUp is set the connection is closed as soon as the
// request is on its way.
func (w *wire) push(p *pushInput, hangUp bool) (*answer, error) {
	query := url.Values{"lastMutationAt": {strconv.FormatInt(p.base, 10)}}
	if p.merge {
		query.Set("merge", "true")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if hangUp {
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { cancel() }})
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.base+"/v1/sync?"+query.Encode(), strings.NewReader(p.body()))
	if err != nil {
		return nil, err
	}
	r.GetBody = nil // or net/http would itself retry a push with a key, unrecorded
	r.Header.Set("Content-Type", "application/json")
	if p.key != "" {
		r.Header.Set("Idempotency-Key", p.key)
	}
	if p.client != "" {
		r.Header.Set("x-client-id", p.client)
	}
	if p.minimal {
		r.Header.Set("Prefer", "return=minimal")
	}
	return w.do(r)
}

// body returns the body of p.
func (p *pushInput) body() string {
	var b strings.Builder
	b.WriteString(`{"mutations":[`)
	for i, m := range p.content.mutations {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"type":%q,"resource":%q`, m.kind, m.resource)
		if m.id != "" {
			fmt.Fprintf(&b, `,"resourceId":%q`, m.id)
		}
		if m.data != "" {
			b.WriteString(`,"data":` + m.data)
		}
		b.WriteByte('}')
	}
	switch p.invalid {
	case http.StatusUnprocessableEntity: // the last mutation breaks a rule
		if len(p.content.mutations) > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`{"type":"UPDATE","resource":"NOTE","data":{}}]}`)
	case http.StatusBadRequest: // cut short
	default:
		b.WriteString("]}")
	}
	return b.String()
}

// pull sends p.
func (w *wire) pull(p *pullInput) (*answer, error) {
	query := url.Values{"mutationsSince": {strconv.FormatInt(p.since, 10)}}
	for name, n := range map[string]int64{"limit": int64(p.limit), "page": int64(p.page), "after": p.after} {
		if n != 0 {
			query.Set(name, strconv.FormatInt(n, 10))
		}
	}
	for name, set := range map[string]bool{"history": p.history, "metadataOnly": p.metadataOnly} {
		if set {
			query.Set(name, "true")
		}
	}
	if len(p.resources) > 0 {
		query.Set("resources", strings.Join(p.resources, ","))
	}
	r, err := http.NewRequest(http.MethodGet, w.base+"/v1/sync?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	if p.noneMatch != 0 {
		r.Header.Set("If-None-Match", fmt.Sprintf(`W/"%d"`, p.noneMatch))
	}
	return w.do(r)
}

// do returns errLost or errHung if no whole answer came, and another error if
// one came that is none of the protocol.
func (w *wire) do(r *http.Request) (*answer, error) {
	r.Header.Set("X-User-Id", w.user)
	response, err := w.client.Do(r)
	var body []byte
	if err == nil {
		defer response.Body.Close()
		body, err = io.ReadAll(response.Body)
	}
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, errHung
	case err != nil:
		return nil, errLost
	}
	a, err := parseAnswer(response, body)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w: %d %s", r.Method, r.URL.RequestURI(), err, response.StatusCode, body)
	}
	return a, nil
}

type wireMutation struct {
	Type       string          `json:"type"`
	Resource   string          `json:"resource"`
	ResourceID string          `json:"resourceId"`
	Data       json.RawMessage `json:"data"`
	Timestamp  int64           `json:"timestamp"`
}

type wireConflict struct {
	Index      int          `json:"index"`
	Resource   string       `json:"resource"`
	ResourceID string       `json:"resourceId"`
	Client     wireMutation `json:"client"`
	Server     wireMutation `json:"server"`
	Fields     []string     `json:"fields"`
}

type wireAnswer struct {
	Success bool `json:"success"`
	Data    *struct {
		LastMutationAt *int64          `json:"lastMutationAt"`
		Mutations      json.RawMessage `json:"mutations"`
		Changes        []wireMutation  `json:"changes"`
		Limit          int             `json:"limit"`
		Page           int             `json:"page"`
		Total          int             `json:"total"`
		HasMore        bool            `json:"hasMore"`
		NextAfter      int64           `json:"nextAfter"`
	} `json:"data"`
	Type    string `json:"type"`
	Message string `json:"message"`
	Error   *struct {
		Code    string          `json:"code"`
		Message string          `json:"message"`
		Details json.RawMessage `json:"details"`
	} `json:"error"`
}

// parseAnswer reads an answer and refuses what no client could understand.
func parseAnswer(r *http.Response, body []byte) (*answer, error) {
	a := &answer{status: r.StatusCode, replayed: r.Header.Get("Idempotency-Replayed") == "true"}
	told := r.Header.Get("X-Mutation-At")
	if a.status == http.StatusNotModified {
		var err error
		a.head, err = strconv.ParseInt(told, 10, 64)
		return a, err
	}
	var in wireAnswer
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return a, a.problem(&in, told)
	}
	if !in.Success || in.Data == nil || in.Data.LastMutationAt == nil || in.Error != nil {
		return nil, errors.New("is no envelope")
	}
	d := in.Data
	a.head, a.raw = *d.LastMutationAt, string(d.Mutations)
	if told != strconv.FormatInt(a.head, 10) {
		return nil, fmt.Errorf("its X-Mutation-At is %q", told)
	}
	a.limit, a.page, a.total, a.hasMore, a.nextAfter = d.Limit, d.Page, d.Total, d.HasMore, d.NextAfter
	if d.Mutations != nil {
		var list []wireMutation
		if err := decode(d.Mutations, &list); err != nil {
			return nil, err
		}
		a.mutations = mutations(list)
	}
	if d.Changes != nil {
		a.changes = mutations(d.Changes)
	}
	return a, nil
}

// problem reads an error.
func (a *answer) problem(in *wireAnswer, told string) error {
	if in.Success || in.Error == nil || in.Error.Message != in.Message || told != "" || a.replayed {
		return errors.New("is no envelope of an error")
	}
	a.code = in.Error.Code
	if a.status != http.StatusConflict {
		return nil
	}
	var details struct {
		Reason               string         `json:"reason"`
		ClientLastMutationAt int64          `json:"clientLastMutationAt"`
		ServerLastMutationAt int64          `json:"serverLastMutationAt"`
		Conflicts            []wireConflict `json:"conflicts"`
	}
	if err := decode(in.Error.Details, &details); err != nil {
		return err
	}
	a.reason, a.head = details.Reason, details.ServerLastMutationAt
	a.conflicts = []conflict{}
	for _, c := range details.Conflicts {
		name := func(m wireMutation) mutation {
			m.Resource, m.ResourceID = c.Resource, c.ResourceID
			return mutations([]wireMutation{m})[0]
		}
		a.conflicts = append(a.conflicts, conflict{c.Index, name(c.Client), name(c.Server)})
	}
	return nil
}

func decode(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("does not parse: %w", err)
	}
	return nil
}

func mutations(list []wireMutation) []mutation {
	all := make([]mutation, len(list))
	for i, m := range list {
		all[i] = mutation{m.Type, m.Resource, m.ResourceID, string(m.Data), m.Timestamp}
	}
	return slices.Clip(all)
}
