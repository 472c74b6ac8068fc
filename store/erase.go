package store

import (
	"bytes"
	"context"

	bolt "go.etcd.io/bbolt"

	"tidemark/mutlog"
)

// maxErased bounds how many batches one transaction erases, because what
// shares their groups moves.
const maxErased = 64

// Erase implements mutlog.Store. The gap comes first, so that no device takes
// what is left meanwhile for the log.
func (s *Bolt) Erase(ctx context.Context, user mutlog.User, until mutlog.Timestamp, progress func(mutations int)) error {
	erased := 0
	for more := true; more; {
		n := 0
		err := s.Update(ctx, user, func(tx mutlog.Tx) (err error) {
			n, more, err = tx.(*boltTx).eraseSome(until)
			return err
		})
		if err != nil {
			return err
		}
		erased += n
		progress(erased)
	}
	return s.eraseRecords(ctx, string(user))
}

// eraseSome erases the oldest batches, n mutations; more tells that there may be
// others. In the end it erases what else there is.
func (tx *boltTx) eraseSome(until mutlog.Timestamp) (n int, more bool, err error) {
	head, err := tx.Head()
	if err != nil {
		return 0, false, err
	}
	bounds, err := tx.Bounds()
	if err != nil {
		return 0, false, err
	}
	for _, gap := range bounds.Gaps {
		until = max(until, gap.Until)
	}
	until = max(until, head)
	erased := mutlog.Bounds{Pruned: head, Horizon: mutlog.Beginning, Gaps: []mutlog.Gap{{After: mutlog.Beginning, Until: until}}}
	if err := tx.SetBounds(erased); err != nil {
		return 0, false, err
	}
	tx.write.thorough = true
	if head == mutlog.Beginning {
		tx.write.edits = append(tx.write.edits, edit{apply: tx.prefix.eraseRest})
		tx.write.onHead = true
		return 0, false, nil
	}
	last := mutlog.Beginning
	batches := 0
	err = tx.walk(mutlog.Beginning, func(pl place) (bool, error) {
		last, n = pl.head(), n+pl.n
		batches++
		return batches < maxErased, nil
	})
	if err != nil {
		return 0, false, err
	}
	return n, true, tx.Prune(mutlog.Beginning, last, nil)
}

// eraseRest erases the name, and all keys that are left of an empty log but for
// that of its bounds.
func (p prefix) eraseRest(_ *Bolt, tx *bolt.Tx, _ *commit) error {
	user := newBoltTx(tx, p, nil, nil)
	a, err := user.about()
	if err != nil {
		return err
	}
	a.name = ""
	logs := tx.Bucket(bucketLogs)
	cursor := logs.Cursor()
	for k, _ := cursor.Seek(p[:]); bytes.HasPrefix(k, p[:]); k, _ = cursor.Seek(p[:]) {
		if err := logs.Delete(bytes.Clone(k)); err != nil {
			return err
		}
	}
	k := p.key(kindUser, 0)
	return logs.Put(k, encodeAbout(k, a))
}

// eraseRecords removes the records of an owner, of all kinds.
func (s *Bolt) eraseRecords(ctx context.Context, owner string) error {
	kinds, err := s.kinds(ctx)
	for _, kind := range kinds {
		for r, failed := range s.Records(ctx, kind, owner) {
			if err = failed; err == nil {
				err = s.UpdateRecord(ctx, r.RecordKey, func([]byte) ([]byte, error) { return nil, nil })
			}
			if err != nil {
				return err
			}
		}
	}
	return err
}

// kinds returns the kinds of records that there are.
func (s *Bolt) kinds(ctx context.Context) (kinds []string, err error) {
	err = s.view(ctx, prefix{}, func(tx *boltTx) error {
		c := tx.tx.Bucket(bucketRecords).Cursor()
		for k, v := c.First(); k != nil; {
			r, err := decodeKept(k, v)
			if err != nil {
				return err
			}
			kinds = append(kinds, r.Kind)
			k, v = c.Seek([]byte(r.Kind + "\x01"))
		}
		return nil
	})
	return kinds, err
}
