package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// postgresCheck goes through one state of a log in order.
type postgresCheck struct {
	tx     *postgresTx
	end    mutlog.Timestamp // of the mutations
	head   mutlog.Timestamp // of the batches so far
	faults []string
}

func (c *postgresCheck) fault(format string, args ...any) {
	c.faults = append(c.faults, fmt.Sprintf(format, args...))
}

func (c *postgresCheck) run() error {
	if err := c.tx.pin(); err != nil {
		return err
	}
	floor := c.tx.log.floor()
	c.head = mutlog.Beginning
	if c.end > max(c.tx.log.head, floor) && c.tx.exists {
		c.fault("there is mutation %d, and the head is %d", c.end, c.tx.log.head)
	}
	for after := floor; ; {
		batches, err := c.batches(after)
		if err != nil {
			return err
		}
		if len(batches) == 0 {
			break
		}
		if err := c.mutations(batches); err != nil {
			return err
		}
		after = batches[len(batches)-1].last
	}
	if c.tx.exists && c.head != c.tx.log.head {
		c.fault("the head is %d, and the newest batch ends with %d", c.tx.log.head, c.head)
	}
	return nil
}

// batchRow is what a row of batches says of its place.
type batchRow struct {
	previous, first, last mutlog.Timestamp
	n                     int
	receipt               bool
}

// batches reads the next batches and checks that each follows the one before it,
// or what pruning has left of that.
func (c *postgresCheck) batches(after mutlog.Timestamp) (batches []batchRow, err error) {
	reset := func() { batches = nil }
	err = c.tx.read(reset, func(rows pgx.Rows) error {
		var b batchRow
		err := rows.Scan((*int64)(&b.previous), (*int64)(&b.first), (*int64)(&b.last), &b.n, &b.receipt)
		batches = append(batches, b)
		return err
	}, `SELECT previous, first, last, mutations, receipt FROM tidemark.batches WHERE user_id = $1 AND last > $2 AND last <= $3
ORDER BY last LIMIT 1000`, c.tx.user, int64(after), int64(c.tx.log.head))
	for _, b := range batches {
		pruned := b.previous <= c.tx.log.bounds.Pruned
		if b.previous != c.head && !(pruned && b.previous > c.head) {
			c.fault("batch %d follows %d, and not the head before it, %d", b.first, b.previous, c.head)
		}
		if b.first <= b.previous || b.last < b.first || b.n < 1 {
			c.fault("batch %d to %d of %d mutations follows %d", b.first, b.last, b.n, b.previous)
		}
		c.head = b.last
	}
	return batches, err
}

// mutations checks the mutations of batches.
func (c *postgresCheck) mutations(batches []batchRow) error {
	after, until := max(batches[0].previous, c.tx.log.floor()), batches[len(batches)-1].last
	for after < until {
		last, err := c.stretch(&batches, after, until)
		if err != nil {
			return err
		}
		if last == after {
			break
		}
		after = last
	}
	for _, b := range batches {
		c.missing(b)
	}
	return nil
}

// stretch checks some mutations, takes those batches that are complete off
// batches, and returns the last mutation.
func (c *postgresCheck) stretch(batches *[]batchRow, after, until mutlog.Timestamp) (last mutlog.Timestamp, err error) {
	before := *batches
	reset := func() { *batches, last = slices.Clone(before), after } // rows take from what they count
	err = c.tx.read(reset, func(rows pgx.Rows) error {
		e, err := scanEntry(rows, c.tx.user, nil, nil)
		if errors.Is(err, mutlog.ErrCorrupt) {
			c.fault("mutation %d: its checksum", e.Timestamp)
		} else if err != nil {
			return err
		}
		last = e.Timestamp
		for len(*batches) > 0 && (*batches)[0].last < last {
			c.missing((*batches)[0])
			*batches = (*batches)[1:]
		}
		if len(*batches) == 0 || last < (*batches)[0].first {
			c.fault("mutation %d is in no batch", last)
			return nil
		}
		(*batches)[0].n--
		return nil
	}, selectHistory, c.tx.user, int64(after), int64(until), 1000, maxReadBytes)
	return last, err
}

// missing tells of a batch that does not have as many mutations as it should.
func (c *postgresCheck) missing(b batchRow) {
	if b.n != 0 {
		c.fault("batch %d to %d has %d mutations less than it says", b.first, b.last, b.n)
	}
}
