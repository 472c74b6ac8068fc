package mutlogtest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"tidemark/mutlog"
)

// Prune implements mutlog.Tx.
func (t *tx) Prune(after, until mutlog.Timestamp, keep []mutlog.Timestamp) error {
	if until > t.after.bounds.Pruned {
		return fmt.Errorf("pruned until %d, beyond the bounds, %d", until, t.after.bounds.Pruned)
	}
	left := &mutlog.Batch{}
	var before, behind []*mutlog.Batch
	for _, b := range t.batches {
		switch {
		case b.First() <= after:
			before = append(before, b)
		case b.Head() > until:
			behind = append(behind, b)
		default:
			left.Live = b.Live
			left.Entries = append(left.Entries, b.Entries...)
		}
	}
	left.Entries = slices.DeleteFunc(left.Entries, func(e mutlog.Entry) bool { return !slices.Contains(keep, e.Timestamp) })
	t.changed = true
	t.after.batches, t.after.pruned = before, maps.Clone(t.pruned)
	if len(left.Entries) > 0 {
		left.Previous, _ = reader{userLog{batches: before}}.Head()
		left.Base = left.Previous
		if t.after.pruned == nil {
			t.after.pruned = map[*mutlog.Batch]bool{}
		}
		t.after.pruned[left] = true
		t.after.batches = append(t.after.batches, left)
	}
	t.after.batches = append(t.after.batches, behind...)
	return nil
}

// Erase implements mutlog.Store.
func (s *Store) Erase(_ context.Context, user mutlog.User, until mutlog.Timestamp, progress func(int)) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	log := s.log(user)
	head, _ := reader{log}.Head()
	s.mu.Lock()
	defer s.mu.Unlock()
	empty := userLog{bounds: mutlog.NoBounds}
	empty.bounds.Gaps = []mutlog.Gap{{After: mutlog.Beginning, Until: max(head, until)}}
	if n := len(log.bounds.Gaps); n > 0 {
		empty.bounds.Gaps[0].Until = max(empty.bounds.Gaps[0].Until, log.bounds.Gaps[n-1].Until)
	}
	s.logs[user] = empty
	s.users = slices.DeleteFunc(slices.Clone(s.users), func(u mutlog.User) bool { return u == user })
	maps.DeleteFunc(s.records, func(k mutlog.RecordKey, _ []byte) bool { return k.Owner == string(user) })
	progress(len(reader{log}.entries(mutlog.Beginning, mutlog.MaxTimestamp)))
	return nil
}
