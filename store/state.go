package store

import (
	"encoding/binary"
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// state is what the bucket "tidemark" says of the newest transaction, renewed
// by every one, in a page that each writes anyway:
//
//	u32 CRC-32C of the key and all that follows
//	u64 the number of the transaction
//	u64 the number of batches in the store
//	u8  1 if the store was closed after it, 0 if it is in use or has crashed
//
// It shows what the checksums of records cannot: that a disk has lost a page,
// in whose place an older one stands that is sound by itself.
type state struct {
	transaction int
	batches     uint64
	clean       bool
}

var metaState = []byte("state")

const stateSize = 4 + 8 + 8 + 1

// readState reads the state and compares it with the transaction of bbolt.
func readState(tx *bolt.Tx) (state, error) {
	v := tx.Bucket(bucketMeta).Get(metaState)
	if len(v) != stateSize || !isSealed(metaState, v) || v[20] > 1 {
		return state{}, fmt.Errorf("%w: its state cannot be read", ErrDamaged)
	}
	st := state{int(binary.BigEndian.Uint64(v[4:])), binary.BigEndian.Uint64(v[12:]), v[20] == 1}
	if st.transaction != tx.ID() {
		return state{}, fmt.Errorf("%w: it is at transaction %d, and its root at %d", ErrDamaged, tx.ID(), st.transaction)
	}
	return st, nil
}

// write puts st into tx, as the state after it.
func (st *state) write(tx *bolt.Tx) error {
	v := make([]byte, stateSize)
	binary.BigEndian.PutUint64(v[4:], uint64(st.transaction))
	binary.BigEndian.PutUint64(v[12:], st.batches)
	if st.clean {
		v[20] = 1
	}
	return tx.Bucket(bucketMeta).Put(metaState, sealed(metaState, v))
}

// markClean makes durable whether the store is closed; it is for when there is
// no committer.
func (s *Bolt) markClean(clean bool) (err error) {
	var tx *bolt.Tx
	defer func() {
		if r := recover(); r != nil { // bbolt has met a damaged page
			s.stuck.Store(tx == nil)
			err = fmt.Errorf("%w: a page is not what it should be", ErrDamaged)
		}
	}()
	tx, err = s.db.Begin(true)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	next := state{tx.ID(), s.state.batches, clean}
	if err = next.write(tx); err == nil {
		err = tx.Commit()
	}
	switch {
	case err == nil:
		s.state = next
	case noRoom(err) && s.lastTransaction() == s.state.transaction:
		err = nil // the first commit that finds room removes the mark, and without one the next start verifies more
	}
	return err
}
