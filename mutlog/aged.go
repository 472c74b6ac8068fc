package mutlog

import "slices"

// aged knows which mutations of the old part of a log later ones of that part
// supersede: each leads back to the one before it. To look from the newest of
// each resource instead would go through all of the history that is kept, again
// for each mutation. That something is superseded stays true, whatever happens to
// the log meanwhile.
type aged struct {
	at         []Timestamp // in order
	size       []uint32
	superseded []bool

	bytes, garbage int // about how many bytes there are, and would go
}

// add adds the next stretch.
func (a *aged) add(s *stretchOf) {
	for i := range s.entries {
		e := &s.entries[i]
		if j, found := slices.BinarySearch(a.at, e.Prev); found {
			a.superseded[j] = true
			a.garbage += int(a.size[j])
		}
		size := e.size()
		a.at, a.size, a.superseded = append(a.at, e.Timestamp), append(a.size, uint32(size)), append(a.superseded, false)
		a.bytes += size
		if s.expired[e.Timestamp] {
			a.garbage += size
		}
	}
}

// isSuperseded tells whether the mutation at t is.
func (a *aged) isSuperseded(t Timestamp) bool {
	i, found := slices.BinarySearch(a.at, t)
	return found && a.superseded[i]
}
