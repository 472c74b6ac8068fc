package store

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"os"

	bolt "go.etcd.io/bbolt"
)

// A bbolt file has two meta pages, written in turn: 16 bytes of page header, 56
// of content, and the 64-bit FNV-1a of that. Of one that is damaged bbolt says
// nothing; it goes by the other. But if that is the older, then the newest
// commit is gone without a trace. A power cut does not do that, since all of it
// is in one sector. So a damaged meta page is accepted only where the other one
// says that the store was closed: closing writes both.
const (
	metaHeader  = 16
	metaContent = 56
)

// checkMetas refuses a file whose newest commit may be gone.
func checkMetas(db *bolt.DB, st state) error {
	f, err := os.Open(db.Path())
	if err != nil {
		return err
	}
	defer f.Close()
	for i := range int64(2) {
		page := make([]byte, metaHeader+metaContent+8)
		if _, err := f.ReadAt(page, i*int64(db.Info().PageSize)); err != nil {
			return err
		}
		sum := fnv.New64a()
		sum.Write(page[metaHeader : metaHeader+metaContent])
		if sum.Sum64() != binary.NativeEndian.Uint64(page[metaHeader+metaContent:]) && !st.clean {
			return fmt.Errorf("%w: one of its two meta pages is damaged, and with it the newest batches may be gone", ErrDamaged)
		}
	}
	return nil
}
