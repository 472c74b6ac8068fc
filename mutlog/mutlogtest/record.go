package mutlogtest

import (
	"bytes"
	"cmp"
	"context"
	"iter"
	"slices"

	"tidemark/mutlog"
)

// Record implements mutlog.Store.
func (s *Store) Record(_ context.Context, key mutlog.RecordKey) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.records[key]), nil
}

// UpdateRecord implements mutlog.Store.
func (s *Store) UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func([]byte) ([]byte, error)) error {
	s.updating.Lock()
	defer s.updating.Unlock()
	old, _ := s.Record(ctx, key)
	value, err := fn(old)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if value == nil {
		delete(s.records, key)
	} else {
		s.records[key] = append([]byte{}, value...)
	}
	return nil
}

// Records implements mutlog.Store.
func (s *Store) Records(_ context.Context, kind, owner string) iter.Seq2[mutlog.Record, error] {
	return func(yield func(mutlog.Record, error) bool) {
		for _, record := range s.sorted(kind, owner) {
			if !yield(record, nil) {
				return
			}
		}
	}
}

func (s *Store) sorted(kind, owner string) (found []mutlog.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, value := range s.records {
		if (kind == "" || key.Kind == kind) && (owner == "" || key.Owner == owner) {
			found = append(found, mutlog.Record{RecordKey: key, Value: bytes.Clone(value)})
		}
	}
	slices.SortFunc(found, func(a, b mutlog.Record) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Owner, b.Owner), cmp.Compare(a.Name, b.Name))
	})
	return found
}
