package export

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"

	"tidemark/mutlog"
)

// maxLine bounds a line: no batch comes near it, and a file without line feeds
// fills no memory.
const maxLine = 1 << 30

// Reader reads an export. Header is known at once; that nothing is missing or
// was changed, only once Batches has ended without an error.
type Reader struct {
	Header Header

	lines *bufio.Reader
	hash  hash.Hash
	text  []byte
}

// NewReader reads the header of an export.
func NewReader(r io.Reader) (*Reader, error) {
	reader := &Reader{lines: bufio.NewReaderSize(r, 64<<10), hash: sha256.New()}
	line, err := reader.line()
	if err != nil {
		return nil, err
	}
	h := &reader.Header
	if err := json.Unmarshal(line, h); err != nil || h.Kind != kind {
		return nil, ErrFormat
	}
	if h.Version > version {
		return nil, fmt.Errorf("it was written by a newer version of tidemark: its version is %d, and this one knows %d", h.Version, version)
	}
	reader.hash.Write(line)
	return reader, nil
}

// line returns the next line, with its line feed; it is valid until the next
// call.
func (r *Reader) line() ([]byte, error) {
	r.text = r.text[:0]
	for {
		part, err := r.lines.ReadSlice('\n')
		r.text = append(r.text, part...)
		switch {
		case err == nil:
			return r.text, nil
		case errors.Is(err, io.EOF), len(r.text) > maxLine:
			return nil, fmt.Errorf("%w: it ends early", ErrFormat)
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// Batches yields the batches in order; each is the caller's. Its last error is
// ErrFormat if the export is not what it was when it was written.
func (r *Reader) Batches() iter.Seq2[*mutlog.Batch, error] {
	return func(yield func(*mutlog.Batch, error) bool) {
		var read Trailer
		for {
			line, err := r.line()
			if err != nil {
				yield(nil, err)
				return
			}
			if bytes.HasPrefix(line, []byte(`{"batches":`)) {
				if err := r.end(line, read); err != nil {
					yield(nil, err)
				}
				return
			}
			r.hash.Write(line)
			b, err := decodeBatch(line)
			if !yield(b, err) || err != nil {
				return
			}
			read.Batches++
			read.Mutations += int64(len(b.Entries))
		}
	}
}

// end compares what was read with the trailer.
func (r *Reader) end(line []byte, read Trailer) error {
	var trailer Trailer
	if err := json.Unmarshal(line, &trailer); err != nil {
		return ErrFormat
	}
	read.SHA256 = hex.EncodeToString(r.hash.Sum(nil))
	if trailer != read {
		return fmt.Errorf("%w: its checksum is another", ErrFormat)
	}
	return nil
}

func decodeBatch(line []byte) (*mutlog.Batch, error) {
	var l batchLine
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrFormat, err)
	}
	b, err := l.batch()
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrFormat, err)
	}
	return b, nil
}
