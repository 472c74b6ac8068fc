// Package export writes the log of a user as text and reads it into a log
// elsewhere, with all that a device relies on: timestamps, tombstones, receipts
// and bounds. A device that asks the other server from then on goes on where it
// was, and a push that it sends again is recognised.
package export

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"tidemark/mutlog"
)

// Format of an export, version 1
//
// Lines of JSON. The first is the header, the last the trailer; each one between
// them is a batch, as it was pushed:
//
//	{"tidemark":"export","version":1,"user":"alice","made":"…","head":17,"bounds":{…}}
//	{"base":-1,"previous":-1,"client":"phone","mutations":[
//	  {"type":"CREATE","resource":"NOTE","resourceId":"a","data":{…},"timestamp":16},
//	  {"type":"UPDATE","resource":"NOTE","resourceId":"a","data":{…},"state":{…},"prev":16,"born":16,"timestamp":17}]}
//	{"batches":1,"mutations":2,"sha256":"…"}
//
// Members of a batch are those of mutlog.Batch and mutlog.Entry. "state" is
// there for an UPDATE only: it is the data of a CREATE, and a DELETE leaves none.
// "prev" is left out of the first mutation of a resource, "born" where it is the
// timestamp. Data whose text has line feeds is a string that holds the text.
// The checksum is that of all bytes before the trailer.
const version = 1

// Header is the first line of an export.
type Header struct {
	Kind    string           `json:"tidemark"` // "export"
	Version int              `json:"version"`
	User    mutlog.User      `json:"user"`
	Made    time.Time        `json:"made"`
	Head    mutlog.Timestamp `json:"head"` // of the log
	Bounds  Bounds           `json:"bounds"`
}

const kind = "export"

// Bounds is mutlog.Bounds.
type Bounds struct {
	Pruned  mutlog.Timestamp `json:"pruned"`
	Horizon mutlog.Timestamp `json:"horizon"`
	Gaps    []Gap            `json:"gaps,omitempty"`
}

// Gap is mutlog.Gap.
type Gap struct {
	After mutlog.Timestamp `json:"after"`
	Until mutlog.Timestamp `json:"until"`
}

func boundsOf(b mutlog.Bounds) Bounds {
	bounds := Bounds{Pruned: b.Pruned, Horizon: b.Horizon}
	for _, gap := range b.Gaps {
		bounds.Gaps = append(bounds.Gaps, Gap(gap))
	}
	return bounds
}

func (b *Bounds) bounds() mutlog.Bounds {
	bounds := mutlog.Bounds{Pruned: b.Pruned, Horizon: b.Horizon}
	for _, gap := range b.Gaps {
		bounds.Gaps = append(bounds.Gaps, mutlog.Gap(gap))
	}
	return bounds
}

// Trailer is the last line of an export.
type Trailer struct {
	Batches   int64  `json:"batches"`
	Mutations int64  `json:"mutations"`
	SHA256    string `json:"sha256"`
}

// ErrFormat: a text is no export, not all of one, or was changed.
var ErrFormat = errors.New("no complete export of tidemark")

// appendBatch appends the line of b, without its line feed.
func appendBatch(line []byte, b *mutlog.Batch) ([]byte, error) {
	line = fmt.Appendf(line, `{"base":%d,"previous":%d`, b.Base, b.Previous)
	if b.Client != "" {
		line = mutlog.AppendQuoted(append(line, `,"client":`...), b.Client)
	}
	if b.Key != "" {
		line = mutlog.AppendQuoted(append(line, `,"key":`...), b.Key)
	}
	if b.Live != nil {
		live, err := json.Marshal(b.Live)
		if err != nil {
			return nil, err
		}
		line = append(append(line, `,"live":`...), live...)
	}
	line = append(line, `,"mutations":[`...)
	for i := range b.Entries {
		if i > 0 {
			line = append(line, ',')
		}
		line = appendEntry(line, &b.Entries[i])
	}
	return append(line, "]}"...), nil
}

func appendEntry(line []byte, e *mutlog.Entry) []byte {
	line = fmt.Appendf(line, `{"type":%q,"resource":%q,"resourceId":`, e.Type, e.Resource)
	line = mutlog.AppendQuoted(line, e.ResourceID)
	if e.Assigned {
		line = append(line, `,"assigned":true`...)
	}
	if e.Data != nil {
		line = appendData(append(line, `,"data":`...), e.Data)
	}
	if e.Type == mutlog.Update {
		line = appendData(append(line, `,"state":`...), e.State)
	}
	if e.Prev != mutlog.Beginning {
		line = strconv.AppendInt(append(line, `,"prev":`...), int64(e.Prev), 10)
	}
	if e.Live() && e.Born != e.Timestamp {
		line = strconv.AppendInt(append(line, `,"born":`...), int64(e.Born), 10)
	}
	line = strconv.AppendInt(append(line, `,"timestamp":`...), int64(e.Timestamp), 10)
	return append(line, '}')
}

// appendData appends data as it is, unless it would break the line.
func appendData(line, data []byte) []byte {
	if strings.ContainsAny(string(data), "\n\r") {
		return mutlog.AppendQuoted(line, string(data))
	}
	return append(line, data...)
}

// batchLine is what a line of a batch is decoded into.
type batchLine struct {
	Base      mutlog.Timestamp        `json:"base"`
	Previous  mutlog.Timestamp        `json:"previous"`
	Client    string                  `json:"client"`
	Key       string                  `json:"key"`
	Live      map[string]mutlog.Count `json:"live"`
	Mutations []entryLine             `json:"mutations"`
}

type entryLine struct {
	Type       mutlog.Type      `json:"type"`
	Resource   string           `json:"resource"`
	ResourceID string           `json:"resourceId"`
	Assigned   bool             `json:"assigned"`
	Data       json.RawMessage  `json:"data"`
	State      json.RawMessage  `json:"state"`
	Prev       mutlog.Timestamp `json:"prev"`
	Born       mutlog.Timestamp `json:"born"`
	Timestamp  mutlog.Timestamp `json:"timestamp"`
}

func (l *batchLine) batch() (*mutlog.Batch, error) {
	b := &mutlog.Batch{Base: l.Base, Previous: l.Previous, Client: l.Client, Key: l.Key, Live: l.Live,
		Entries: make([]mutlog.Entry, len(l.Mutations))}
	for i := range l.Mutations {
		if err := l.Mutations[i].entry(&b.Entries[i]); err != nil {
			return nil, err
		}
	}
	if len(b.Entries) == 0 {
		return nil, errors.New("a batch without mutations")
	}
	return b, nil
}

func (l *entryLine) entry(e *mutlog.Entry) (err error) {
	e.Mutation = mutlog.Mutation{Type: l.Type, Resource: l.Resource, ResourceID: l.ResourceID, Timestamp: l.Timestamp}
	e.Assigned, e.Prev, e.Born = l.Assigned, l.Prev, l.Born
	if e.Prev == 0 {
		e.Prev = mutlog.Beginning
	}
	if e.Data, err = data(l.Data); err != nil {
		return err
	}
	switch e.Type {
	case mutlog.Create:
		e.State = e.Data
	case mutlog.Update:
		e.State, err = data(l.State)
	}
	switch {
	case !e.Live():
		e.Born = mutlog.Beginning
	case e.Born == 0:
		e.Born = e.Timestamp
	}
	return err
}

// data returns the text of data as it was sent.
func data(raw json.RawMessage) ([]byte, error) {
	if len(raw) == 0 || raw[0] != '"' {
		return raw, nil
	}
	var text string
	err := json.Unmarshal(raw, &text)
	return []byte(text), err
}
