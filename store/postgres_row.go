package store

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// mutationColumns are the columns of a mutation, in the order of scanEntry.
const mutationColumns = `m.at, m.type, m.resource, m.resource_id, m.assigned, m.data, m.state, m.prev, m.born, m.crc`

// scanEntry reads the columns of a mutation, behind those that before takes.
func scanEntry(rows pgx.Rows, user []byte, before ...any) (mutlog.Entry, error) {
	var e mutlog.Entry
	var crc int64
	err := rows.Scan(append(before, (*int64)(&e.Timestamp), (*string)(&e.Type), &e.Resource, &e.ResourceID, &e.Assigned,
		&e.Data, &e.State, (*int64)(&e.Prev), (*int64)(&e.Born), &crc)...)
	if err == nil && crc != entryChecksum(user, &e) {
		err = fmt.Errorf("%w: the checksum of mutation %d of user %q", mutlog.ErrCorrupt, e.Timestamp, user)
	}
	if e.State != nil && len(e.State) == 0 {
		e.State = e.Data
	}
	return e, err
}

// scanStretch reads a row of selectChanges or selectHistory. One that was
// superseded has no data, and its checksum is nothing to go by.
func scanStretch(rows pgx.Rows, user []byte, size *int64) (e mutlog.Entry, newest bool, err error) {
	var at int64
	if err := rows.Scan(size, &newest, &at, nil, nil, nil, nil, nil, nil, nil, nil, nil); err != nil || !newest {
		e.Timestamp = mutlog.Timestamp(at)
		return e, false, err
	}
	e, err = scanEntry(rows, user, nil, nil)
	return e, true, err
}

// entryChecksum returns the checksum of a mutation whose State is as it is in its column.
func entryChecksum(user []byte, e *mutlog.Entry) int64 {
	b := make([]byte, 0, 512)
	b = binary.BigEndian.AppendUint64(b, uint64(e.Timestamp))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Prev))
	b = binary.BigEndian.AppendUint64(b, uint64(e.Born))
	flags := byte(0)
	for i, set := range []bool{e.Assigned, e.Data != nil, e.State != nil} {
		if set {
			flags |= 1 << i
		}
	}
	b = append(b, flags)
	for _, part := range []string{text(user), string(e.Type), e.Resource, e.ResourceID} {
		b = append(binary.AppendUvarint(b, uint64(len(part))), part...)
	}
	b = binary.AppendUvarint(b, uint64(len(e.Data)))
	sum := crc32.Update(0, castagnoli, b)
	sum = crc32.Update(sum, castagnoli, e.Data)
	return int64(crc32.Update(sum, castagnoli, e.State))
}

// entryColumns are the columns of the mutations of a batch, one array for each.
type entryColumns struct {
	at, prev, born, crc   []int64
	types, resources, ids []string
	assigned              []bool
	data, state           []*string
	bytes                 int64
}

// columnsOf takes the entries apart. The arrays share their bytes.
func columnsOf(user []byte, entries []mutlog.Entry) *entryColumns {
	c := &entryColumns{}
	for i := range entries {
		e := entries[i]
		if e.State != nil && string(e.State) == string(e.Data) {
			e.State = []byte{}
		}
		c.at = append(c.at, int64(e.Timestamp))
		c.prev = append(c.prev, int64(e.Prev))
		c.born = append(c.born, int64(e.Born))
		c.crc = append(c.crc, entryChecksum(user, &e))
		c.types = append(c.types, string(e.Type))
		c.resources = append(c.resources, e.Resource)
		c.ids = append(c.ids, e.ResourceID)
		c.assigned = append(c.assigned, e.Assigned)
		c.data = append(c.data, nullable(e.Data))
		c.state = append(c.state, nullable(e.State))
		c.bytes += int64(len(e.Data) + len(e.State))
	}
	return c
}

func nullable(b []byte) *string {
	if b == nil {
		return nil
	}
	s := text(b)
	return &s
}

// encodeLive returns the text of what is live after a batch; nil where nobody
// counted.
func encodeLive(live map[string]mutlog.Count) (*string, error) {
	if live == nil {
		return nil, nil
	}
	pairs := make(map[string][2]int64, len(live))
	for kind, n := range live {
		pairs[kind] = [2]int64{n.Resources, n.Bytes}
	}
	b, err := json.Marshal(pairs)
	return nullable(b), err
}

func decodeLive(s *string) (map[string]mutlog.Count, error) {
	if s == nil {
		return nil, nil
	}
	var pairs map[string][2]int64
	if err := json.Unmarshal([]byte(*s), &pairs); err != nil {
		return nil, fmt.Errorf("%w: what is live after a batch: %v", mutlog.ErrCorrupt, err)
	}
	live := make(map[string]mutlog.Count, len(pairs))
	for kind, n := range pairs {
		live[kind] = mutlog.Count{Resources: n[0], Bytes: n[1]}
	}
	return live, nil
}
