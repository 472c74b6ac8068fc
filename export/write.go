package export

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"time"

	"tidemark/mutlog"
	"tidemark/transfer"
)

// ErrChanged: what a log lacks has changed while it was written.
var ErrChanged = errors.New("the log was pruned, erased or fenced meanwhile; export it again")

// Write writes the log of user, as it is at the head of now, to w. If it fails,
// also with ErrChanged, what it has written is no complete export.
func Write(ctx context.Context, store mutlog.Store, user mutlog.User, w io.Writer) error {
	header := &Header{Kind: kind, Version: version, User: user, Made: time.Now().UTC().Truncate(time.Second)}
	var err error
	if header.Head, header.Bounds, err = State(ctx, store, user); err != nil {
		return err
	}
	out := &writer{hash: sha256.New(), buffered: bufio.NewWriterSize(w, 64<<10)}
	if err := out.json(header); err != nil {
		return err
	}
	trailer := new(Trailer)
	for b, err := range transfer.Batches(ctx, store, user, mutlog.Beginning) {
		if err != nil {
			return err
		}
		if b.First() > header.Head {
			break // it was pushed since
		}
		trailer.Batches++
		trailer.Mutations += int64(len(b.Entries))
		if out.text, err = appendBatch(out.text[:0], b); err != nil {
			return err
		}
		if err := out.line(out.text); err != nil {
			return err
		}
	}
	if _, now, err := State(ctx, store, user); err != nil {
		return err
	} else if !reflect.DeepEqual(now, header.Bounds) {
		return ErrChanged // the header does not say what the batches lack
	}
	trailer.SHA256 = hex.EncodeToString(out.hash.Sum(nil))
	if err := out.json(trailer); err != nil {
		return err
	}
	return out.buffered.Flush()
}

// writer writes lines and sums them up.
type writer struct {
	hash interface {
		io.Writer
		Sum([]byte) []byte
	}
	buffered *bufio.Writer
	text     []byte // of a line, to be used again
}

func (w *writer) json(v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return w.line(text)
}

func (w *writer) line(text []byte) error {
	text = append(text, '\n')
	w.hash.Write(text)
	_, err := w.buffered.Write(text)
	return err
}
