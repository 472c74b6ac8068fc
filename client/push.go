package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/google/uuid"

	"tidemark/mutlog"
)

// Push is a batch of mutations that a device wants applied, whole or not at all.
type Push struct {
	// Base is the cursor of the device.
	Base mutlog.Timestamp

	// Mutations are applied in this order. Timestamps in them are ignored.
	Mutations []mutlog.Mutation

	// Key is the Idempotency-Key, 1 to 255 printable ASCII characters, or ""
	// for none. Either way a push that is sent again as it was is applied once.
	// With a key that still holds after Base has changed, so that a device may
	// pull between two tries.
	//
	// A push without a key does not get one by itself: it would have another
	// one on each try, and so be another push each time. Make one with NewKey
	// when the batch is made, and keep it with the batch.
	Key string

	// Merge asks for the batch to be applied behind what others have pushed
	// since Base, if none of it is about the same resources.
	Merge bool

	// Minimal leaves the data out of Pushed.Mutations.
	Minimal bool
}

// NewKey returns a key for a new batch: a UUID.
func NewKey() string { return uuid.NewString() }

// Pushed is the answer to a push.
type Pushed struct {
	// Head is the head of the log right after the batch. A device that had
	// everything up to the Base of the push has everything up to Head once it
	// has put Changes and then Mutations in place; it keeps its cursor if that
	// is later already, which it can be if the push was Replayed.
	Head mutlog.Timestamp

	// Mutations are those of the push, in its order, with the identifiers and
	// timestamps they got and the data of their resources after each.
	Mutations []mutlog.Mutation

	// Replayed tells that the batch had been applied before, and that this is
	// what the first answer said.
	Replayed bool

	// Changes are what a pull of Base would have given just before the batch;
	// nil unless the push asks to be merged, or was merged when it was applied.
	Changes []mutlog.Mutation
}

// Push sends p once. What its errors mean is said at Error.
func (c *Client) Push(ctx context.Context, p Push) (*Pushed, error) {
	pushed, err := c.push(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("push: %w", err)
	}
	return pushed, nil
}

func (c *Client) push(ctx context.Context, p Push) (*Pushed, error) {
	body, err := p.body()
	if err != nil {
		return nil, err
	}
	query := url.Values{"lastMutationAt": {p.Base.String()}}
	if p.Merge {
		query.Set("merge", "true")
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if p.Key != "" {
		header.Set("Idempotency-Key", p.Key)
	}
	if p.Minimal {
		header.Set("Prefer", "return=minimal")
	}
	var data struct {
		Head      *mutlog.Timestamp `json:"lastMutationAt"`
		Mutations []mutlog.Mutation `json:"mutations"`
		Changes   []mutlog.Mutation `json:"changes"`
	}
	answer, err := c.exchange(ctx, http.MethodPost, query, header, bytes.NewReader(body), &data)
	if err != nil {
		return nil, err
	}
	head, err := headOf(data.Head)
	if err != nil {
		return nil, err
	}
	if err := p.acknowledged(data.Mutations); err != nil {
		return nil, err
	}
	if p.Merge && data.Changes == nil {
		return nil, malformed("a merge was asked for, and it has no changes")
	}
	return &Pushed{
		Head:      head,
		Mutations: data.Mutations,
		Replayed:  answer.Get("Idempotency-Replayed") == "true",
		Changes:   data.Changes,
	}, nil
}

// body returns the JSON of the batch, in which the data stands as it is: an
// encoder would rewrite it.
func (p *Push) body() ([]byte, error) {
	b := []byte(`{"mutations":[`)
	for i, m := range p.Mutations {
		if m.Data != nil && !json.Valid(m.Data) { // it must not spill over into its neighbours
			return nil, &mutlog.ValidationError{Faults: []mutlog.Fault{
				{Index: i, Member: "data", Message: "Invalid data at mutation[" + strconv.Itoa(i) + "]"}}}
		}
		if i > 0 {
			b = append(b, ',')
		}
		m.Timestamp = 0
		b = m.AppendJSON(b)
	}
	return append(b, "]}"...), nil
}

// acknowledged checks that got are the mutations of p, in its order.
func (p *Push) acknowledged(got []mutlog.Mutation) error {
	if len(got) != len(p.Mutations) {
		return malformed(fmt.Sprintf("it acknowledges %d mutations of %d", len(got), len(p.Mutations)))
	}
	for i, sent := range p.Mutations {
		g := got[i]
		if g.Type != sent.Type || g.Resource != sent.Resource || g.ResourceID == "" ||
			sent.ResourceID != "" && g.ResourceID != sent.ResourceID {
			return malformed(fmt.Sprintf("it acknowledges another mutation than mutation[%d]", i))
		}
	}
	return nil
}
