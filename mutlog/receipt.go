package mutlog

// receipt returns the batch that p already is, or nil if it is a new push
// (rules 10 and 11). The batch itself is the receipt: it holds what was pushed,
// what it was pushed on, by whom, and all that the first answer said.
func receipt(tx Reader, head Timestamp, p *Push) (*Batch, error) {
	if p.Key != "" {
		b, err := tx.BatchByKey(p.Key)
		if err == nil && b != nil && !b.holds(p.Mutations) {
			return nil, ErrKeyReused
		}
		return b, err
	}
	if p.Base == head || len(p.Mutations) == 0 {
		return nil, nil // what was pushed on a head has moved it
	}
	for b, err := range tx.BatchesOn(p.Base) {
		if err != nil {
			return nil, err
		}
		if b.Client == p.Client && b.holds(p.Mutations) {
			return b, nil
		}
	}
	return nil, nil
}

// holds tells whether b was made of these mutations. Data is compared by what
// it means, because a client may write it anew for each try.
func (b *Batch) holds(mutations []Mutation) bool {
	if len(b.Entries) != len(mutations) {
		return false
	}
	for i := range mutations {
		e, m := &b.Entries[i], &mutations[i]
		if e.Assigned != (m.ResourceID == "") || !e.Assigned && e.ResourceID != m.ResourceID {
			return false
		}
		if e.Type != m.Type || e.Resource != m.Resource || !equalJSON(e.Data, m.Data) {
			return false
		}
	}
	return true
}
