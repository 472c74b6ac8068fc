package store

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"

	"tidemark/mutlog"
)

// A transaction that reads keeps the pages that are freed meanwhile from being
// used again, and every commit writes a list of all of them: while a copy of
// minutes lasts, each push takes longer than the one before it. So a file is
// copied in several passes, and only the last is in a transaction. Those before
// it take the pages as they find them, some of them half written; each writes
// what is not yet in the copy, and the last finds little that has changed since
// the one before it.
const (
	// maxPasses bounds the passes before the last, and fewPages is which part of
	// the file may have changed in a pass for no other to be needed.
	maxPasses = 3
	fewPages  = 64

	// blockSize is what is compared: every page is some of that.
	blockSize = 4 << 10
)

// Copy writes one state of the whole store to a new file, which OpenBolt then
// opens, and returns its size. Pushes go on meanwhile. to should be on a local
// disk, never a network. passed, if it is not nil, is called while there is time
// with how many bytes have been read and written so far, and may wait; its error
// ends the copy.
//
// It takes 8 bytes of memory for each 4 KiB of the store.
func (s *Bolt) Copy(ctx context.Context, to io.WriterAt, passed func(read, written int64) error) (n int64, err error) {
	if s.isFailed.Load() {
		return 0, errFailed
	}
	c := &copied{ctx: ctx, to: to, seed: maphash.MakeSeed()}
	for range maxPasses {
		before := c.written
		if err := s.pass(c, passed); err != nil {
			return 0, err
		}
		if c.written-before <= c.at/fewPages {
			break
		}
	}
	tx, err := s.db.Begin(false)
	if err != nil {
		return 0, fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	defer tx.Rollback()
	c.at = 0
	if n, err = tx.WriteTo(c); ctx.Err() != nil {
		err = ctx.Err() // which bbolt does not wrap
	}
	return n, err
}

// pass brings c up to the file as it is at the moment.
func (s *Bolt) pass(c *copied, passed func(read, written int64) error) error {
	size, err := s.Size()
	if err != nil {
		return err
	}
	f, err := os.Open(s.path)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !os.SameFile(info, s.file) {
		return errors.Join(err, fmt.Errorf("%w: its file was replaced", ErrDamaged))
	}
	c.at = 0
	pages := io.NewSectionReader(f, 0, size)
	buffer := make([]byte, 64*blockSize)
	for {
		n, err := io.ReadFull(pages, buffer)
		if n > 0 {
			if _, err := c.Write(buffer[:n]); err != nil {
				return err
			}
			c.read += int64(n)
			if passed != nil {
				if err := passed(c.read, c.written); err != nil {
					return err
				}
			}
		}
		switch err {
		case nil:
		case io.EOF, io.ErrUnexpectedEOF:
			return nil
		default:
			return err
		}
	}
}

// copied is a copy of a file that is brought up to it pass by pass, each from the
// beginning: it is written only where it is another.
type copied struct {
	ctx  context.Context
	to   io.WriterAt
	seed maphash.Seed

	at            int64    // where the pass is
	sums          []uint64 // of the blocks of the copy; 0 of one that nobody knows
	read, written int64    // in all passes
}

// Write implements io.Writer.
func (c *copied) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	from := 0 // the beginning of what is to be written
	for n := 0; n < len(p); n += blockSize {
		end := min(n+blockSize, len(p))
		if !c.has(c.at+int64(n), p[n:end]) {
			continue
		}
		if err := c.put(p, from, n); err != nil {
			return from, err
		}
		from = end
	}
	if err := c.put(p, from, len(p)); err != nil {
		return from, err
	}
	c.at += int64(len(p))
	return len(p), nil
}

func (c *copied) put(p []byte, from, end int) error {
	if from == end {
		return nil
	}
	_, err := c.to.WriteAt(p[from:end], c.at+int64(from))
	c.written += int64(end - from)
	return err
}

// has tells whether a block is in the copy at a place, and takes it as there from
// now on.
func (c *copied) has(at int64, block []byte) bool {
	i := int(at / blockSize)
	for len(c.sums) <= i {
		c.sums = append(c.sums, 0)
	}
	if at%blockSize != 0 || len(block) != blockSize { // no file of bbolt has such
		c.sums[i] = 0
		return false
	}
	old := c.sums[i]
	c.sums[i] = maphash.Bytes(c.seed, block)
	return old != 0 && old == c.sums[i]
}
