package store

import (
	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// newestAsOf returns the query for the newest of the mutations of each resource
// that are not later than at: it is the entry of the index mutations_by_resource that
// is before or at its name and at, if it is of that resource. Rows are compared as in the
// index so that no planner, whatever it thinks of the data, goes through the log
// by time instead.
func newestAsOf(at string) string {
	return `
SELECT r.i, ` + mutationColumns + `
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS r (resource, resource_id, i)
CROSS JOIN LATERAL (
	SELECT * FROM tidemark.mutations AS n
	WHERE n.user_id = $1 AND (n.resource, n.resource_id, n.at) <= (r.resource, r.resource_id, ` + at + `)
	ORDER BY n.resource DESC, n.resource_id DESC, n.at DESC LIMIT 1
) AS m WHERE m.resource = r.resource AND m.resource_id = r.resource_id`
}

var selectNewest = newestAsOf("$4") + ` AND m.at > $5`

// refNames are those of refs that have a resourceId: what the server has yet to
// name has no past.
type refNames struct {
	resources, ids []string
	places         []int // among refs
}

func namesOf(refs []mutlog.Ref) *refNames {
	n := &refNames{}
	for i, ref := range refs {
		if ref.ResourceID != "" {
			n.resources, n.ids, n.places = append(n.resources, ref.Resource), append(n.ids, ref.ResourceID), append(n.places, i)
		}
	}
	return n
}

// Newest implements mutlog.Reader.
func (tx *postgresTx) Newest(refs []mutlog.Ref, at mutlog.Timestamp) ([]*mutlog.Entry, error) {
	newest := make([]*mutlog.Entry, len(refs))
	if err := tx.pin(); err != nil || tx.log.head == mutlog.Beginning {
		return newest, err
	}
	if tx.expected.knows(refs, at, tx.log.head) {
		return tx.expected.newest, nil
	}
	names := namesOf(refs)
	if len(names.places) == 0 {
		return newest, nil
	}
	err := tx.read(func() { clear(newest) }, func(rows pgx.Rows) error {
		var i int
		e, err := scanEntry(rows, tx.user, &i)
		if err == nil {
			newest[names.places[i-1]] = &e
		}
		return err
	}, selectNewest, tx.user, names.resources, names.ids, int64(min(at, tx.log.head)), int64(tx.log.floor()))
	return newest, err
}

// A stretch is up to $4 mutations, and ends with the first that makes it $5
// bytes or more; size is what it has up to each. octet_length does not read a
// long text.
const (
	octets = `(coalesce(octet_length(n.data), 0) + coalesce(octet_length(n.state), 0))`

	stretchFrom = ` FROM (
	SELECT n.*, ` + octets + ` AS octets, sum(` + octets + `) OVER (ORDER BY n.at ROWS UNBOUNDED PRECEDING) AS size
	FROM tidemark.mutations AS n
	WHERE n.user_id = $1 AND n.at > $2 AND n.at <= $3
	ORDER BY n.at LIMIT $4
) AS m WHERE m.size - m.octets < $5`

	selectHistory = `SELECT m.size, true, ` + mutationColumns + stretchFrom + ` ORDER BY m.at`

	// selectChanges: whether a mutation was superseded up to $3 is a look at the
	// entry behind it in the index mutations_by_resource. One that was comes
	// without its data.
	selectChanges = `SELECT m.size, m.newest, m.at, m.type, m.resource, m.resource_id, m.assigned,
	CASE WHEN m.newest THEN m.data END, CASE WHEN m.newest THEN m.state END, m.prev, m.born, m.crc
FROM (SELECT m.*, coalesce((
		SELECT l.resource <> m.resource OR l.resource_id <> m.resource_id OR l.at > $3 FROM tidemark.mutations AS l
		WHERE l.user_id = $1 AND (l.resource, l.resource_id, l.at) > (m.resource, m.resource_id, m.at)
		ORDER BY l.resource, l.resource_id, l.at LIMIT 1
	), true) AS newest` + stretchFrom + `) AS m ORDER BY m.at`
)

// Changes implements mutlog.Reader.
func (tx *postgresTx) Changes(after, until mutlog.Timestamp, n int) ([]mutlog.Entry, mutlog.Timestamp, error) {
	return tx.stretch(selectChanges, after, until, n)
}

// History implements mutlog.Reader.
func (tx *postgresTx) History(after, until mutlog.Timestamp, n int) ([]mutlog.Entry, mutlog.Timestamp, error) {
	return tx.stretch(selectHistory, after, until, n)
}

func (tx *postgresTx) stretch(sql string, after, until mutlog.Timestamp, n int) ([]mutlog.Entry, mutlog.Timestamp, error) {
	if err := tx.pin(); err != nil || tx.log.head <= after {
		return nil, until, err
	}
	var entries []mutlog.Entry
	var last mutlog.Timestamp
	var count int
	var size int64
	reset := func() { entries, count, size = nil, 0, 0 }
	err := tx.read(reset, func(rows pgx.Rows) error {
		e, newest, err := scanStretch(rows, tx.user, &size)
		if newest {
			entries = append(entries, e)
		}
		last = e.Timestamp
		count++
		return err
	}, sql, tx.user, int64(max(after, tx.log.floor())), int64(min(until, tx.log.head)), n, maxReadBytes)
	if count < n && size < maxReadBytes || err != nil {
		return entries, until, err // there is no more
	}
	return entries, last, nil
}
