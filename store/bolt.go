package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"tidemark/mutlog"
)

// boltFormat is the version of the layout that layout.go draws.
const boltFormat = 1

// Two buckets: one for what is said of the whole file, one for all logs.
var (
	bucketMeta = []byte("tidemark")
	bucketLogs = []byte("logs")

	metaFormat = []byte("format") // decimal text
	metaID     = []byte("id")     // the ULID of this store
)

// BoltOptions tune a bbolt store; the zero value is what serve uses.
type BoltOptions struct {
	// ReadOnly opens an existing file without the right to change it, beside
	// other readers.
	ReadOnly bool

	// QueueLength bounds how many pushes wait for the disk; more are refused
	// with mutlog.ErrUnavailable. 0 means 1024.
	QueueLength int

	// NoSync gives up durability, to prove that a test would notice.
	NoSync bool
}

// Bolt is a store in one bbolt file.
type Bolt struct {
	db   *bolt.DB
	path string

	queue    chan *write
	stopping sync.RWMutex // held for reading while sending to queue
	stopped  bool
	done     chan struct{} // closed when the committer has ended

	durable *durable

	failed     chan struct{}
	failedOnce sync.Once
	isFailed   atomic.Bool
}

// OpenBolt opens the store in the bbolt file at path, and creates it if it does
// not exist, unless it is to be read only.
func OpenBolt(path string, options BoltOptions) (*Bolt, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !options.ReadOnly:
		if err := createBolt(path); err != nil {
			return nil, fmt.Errorf("creating store %s: %w", path, err)
		}
	case err != nil:
		return nil, fmt.Errorf("opening store: %w", err)
	case info.IsDir():
		return nil, fmt.Errorf("store %s: is a directory", path)
	case info.Size() == 0:
		// A file that has lost its content must not become a new, empty store.
		return nil, fmt.Errorf("store %s %w: it is empty", path, ErrDamaged)
	}
	db, err := openFile(path, options)
	if err == nil {
		if err = checkFormat(db); err != nil {
			db.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("store %s %w", path, err)
	}
	s := &Bolt{db: db, path: path, durable: newDurable(), failed: make(chan struct{}), done: make(chan struct{})}
	if options.ReadOnly {
		s.durable.reach(math.MaxInt)
		close(s.done)
		return s, nil
	}
	if err := s.syncAll(options); err != nil {
		db.Close()
		return nil, fmt.Errorf("store %s cannot be synced: %w", path, err)
	}
	s.queue = make(chan *write, cmp0(options.QueueLength, 1024))
	go s.commitLoop()
	return s, nil
}

// syncAll makes durable what the file shows. A process that was killed between
// the write and the sync of a commit left that to the operating system, and the
// same for the name of a file that it had just created.
func (s *Bolt) syncAll(options BoltOptions) error {
	if !options.NoSync {
		if err := errors.Join(s.db.Sync(), syncDir(filepath.Dir(s.path))); err != nil {
			return err
		}
	}
	s.durable.reach(s.lastTransaction())
	return nil
}

func cmp0(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

// openFile opens a bbolt file. bbolt panics on some damaged files, and reading
// a page that the file does not have faults; both become ErrDamaged.
func openFile(path string, options BoltOptions) (db *bolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			db, err = nil, fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	db, err = bolt.Open(path, 0o600, &bolt.Options{
		Timeout:  5 * time.Second, // a server that is draining may still hold the lock
		ReadOnly: options.ReadOnly,
		NoSync:   options.NoSync,
		// The array type degrades on a fragmented file.
		FreelistType: bolt.FreelistMapType,
		// A file that outgrows its mapping is mapped anew, for which all
		// readers must end; address space costs nothing.
		InitialMmapSize: initialMmapSize,
		NoStatistics:    true,
		PreLoadFreelist: true,
	})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		err = ErrInUse
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum),
		errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrFreePagesNotLoaded):
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil && !errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("cannot be opened: %w", err)
	}
	return db, err
}

// initialMmapSize is 64 GiB, or 512 MiB where addresses have 32 bits.
const initialMmapSize = 1 << (29 + 7*(^uint(0)>>63))

// createBolt makes an empty store that appears at path complete or not at all:
// a power cut while bbolt initialises a file leaves one that does not open.
func createBolt(path string) error {
	dir := filepath.Dir(path)
	temp, err := os.CreateTemp(dir, filepath.Base(path)+".tmp-*")
	if err != nil {
		return err
	}
	temp.Close()
	defer os.Remove(temp.Name())
	db, err := bolt.Open(temp.Name(), 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return err
		}
		if err := meta.Put(metaFormat, strconv.AppendInt(nil, boltFormat, 10)); err != nil {
			return err
		}
		if err := meta.Put(metaID, []byte(ulid.MustNew(ulid.Now(), rand.Reader).String())); err != nil {
			return err
		}
		_, err = tx.CreateBucket(bucketLogs)
		return err
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	// Unlike a rename, a link never replaces what another server has created.
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		if err := os.Rename(temp.Name(), path); err != nil { // a file system without links
			return err
		}
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func checkFormat(db *bolt.DB) error {
	return db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil || tx.Bucket(bucketLogs) == nil {
			return ErrDamaged
		}
		format, err := strconv.Atoi(string(meta.Get(metaFormat)))
		switch {
		case err != nil || format < 1:
			return fmt.Errorf("%w: its format is %q", ErrDamaged, meta.Get(metaFormat))
		case format > boltFormat:
			return fmt.Errorf("%w: its format is %d, and this version knows %d", ErrNewer, format, boltFormat)
		}
		return nil
	})
}

// View implements mutlog.Store.
func (s *Bolt) View(ctx context.Context, user mutlog.User, fn func(mutlog.Reader) error) error {
	return s.view(ctx, user, func(tx *boltTx) error { return fn(tx) })
}

// view runs fn on a snapshot and returns its result once that snapshot is
// durable: bbolt shows a transaction as soon as it has written the meta page,
// before it has synced it. What nobody was told, a power cut may take back.
func (s *Bolt) view(ctx context.Context, user mutlog.User, fn func(*boltTx) error) error {
	id, err := s.snapshot(ctx, user, fn)
	if waitErr := s.durable.wait(id); waitErr != nil {
		return waitErr
	}
	return err
}

// snapshot runs fn on the newest transaction of the file, which may not be
// durable yet, and returns its number.
func (s *Bolt) snapshot(ctx context.Context, user mutlog.User, fn func(*boltTx) error) (id int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if s.isFailed.Load() {
		return 0, errFailed
	}
	tx, err := s.db.Begin(false)
	if err != nil {
		return 0, fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	defer tx.Rollback()
	return tx.ID(), fn(newBoltTx(tx.Bucket(bucketLogs), user))
}

// Update implements mutlog.Store. fn runs on a snapshot, beside the other users
// and without the lock of the writer; the committer then applies what it
// appended if the head of the log is still the one that it saw, which no two
// batches can share, or else fn runs again. A refusal costs the writer nothing.
func (s *Bolt) Update(ctx context.Context, user mutlog.User, fn func(mutlog.Tx) error) error {
	for {
		w := &write{user: user}
		id, err := s.snapshot(ctx, user, func(tx *boltTx) error {
			tx.write = w
			return fn(tx)
		})
		if err != nil || w.puts == nil {
			if waitErr := s.durable.wait(id); waitErr != nil {
				return waitErr
			}
			return err
		}
		if err := s.commit(w); err != errRaced {
			return err
		}
	}
}

// Users implements mutlog.Store.
func (s *Bolt) Users(ctx context.Context, fn func(mutlog.User) error) error {
	const step = 1000
	var from prefix
	for last := false; !last; {
		var users []mutlog.User
		err := s.view(ctx, "", func(tx *boltTx) error {
			k, v := tx.cursor.Seek(from[:])
			for ; k != nil && len(users) < step; k, v = tx.cursor.Seek(from[:]) {
				user, err := decodeUser(k, v)
				if err != nil {
					return err
				}
				users = append(users, user)
				copy(from[:], k)
				if last = !from.increment(); last {
					return nil
				}
			}
			last = k == nil
			return nil
		})
		if err != nil {
			return err
		}
		for _, user := range users {
			if err := fn(user); err != nil {
				return err
			}
		}
	}
	return nil
}

// Failed implements Store.
func (s *Bolt) Failed() <-chan struct{} { return s.failed }

// fail ends the service of the store: what is on disk is not known any more.
func (s *Bolt) fail() {
	s.failedOnce.Do(func() {
		s.isFailed.Store(true)
		s.durable.giveUp()
		close(s.failed)
	})
}

// Close implements mutlog.Store.
func (s *Bolt) Close() error {
	s.stopping.Lock()
	if !s.stopped && s.queue != nil {
		close(s.queue)
	}
	s.stopped = true
	s.stopping.Unlock()
	<-s.done
	return s.db.Close()
}

// boltTx reads the log of one user in a transaction of bbolt, and collects what
// is to be written.
type boltTx struct {
	prefix prefix
	cursor *bolt.Cursor
	write  *write // nil in a View
	name   mutlog.User

	tail       []record // see readTail
	tailRead   bool
	hasSettled bool
}

func newBoltTx(logs *bolt.Bucket, user mutlog.User) *boltTx {
	return &boltTx{prefix: prefixOf(user), cursor: logs.Cursor(), name: user}
}

// last returns the newest batch, or ok = false if there is none.
func (tx *boltTx) last() (r record, ok bool, err error) {
	if k, _ := tx.cursor.Seek(tx.prefix.key(kindBatch+1, 0)); k == nil {
		return tx.record(tx.cursor.Last())
	}
	return tx.record(tx.cursor.Prev())
}

// record parses the batch at k; ok is false if k is no batch of this user.
func (tx *boltTx) record(k, v []byte) (r record, ok bool, err error) {
	if !tx.prefix.has(k, kindBatch) {
		return r, false, nil
	}
	r, err = parseRecord(k, v)
	return r, err == nil, err
}

// from moves the cursor to the batch that holds the first mutation later than
// after.
func (tx *boltTx) from(after mutlog.Timestamp) (r record, ok bool, err error) {
	k, v := tx.cursor.Seek(tx.prefix.key(kindBatch, max(after, 0)+1))
	if k == nil {
		k, v = tx.cursor.Last()
	} else {
		k, v = tx.cursor.Prev()
	}
	if r, ok, err = tx.record(k, v); err != nil || ok && r.head() > after {
		return r, ok, err
	}
	if k == nil {
		return tx.record(tx.cursor.First())
	}
	return tx.record(tx.cursor.Next())
}

// at returns the batch that holds the mutation with the timestamp t.
func (tx *boltTx) at(t mutlog.Timestamp) (record, error) {
	r, ok, err := tx.from(t - 1)
	if err == nil && (!ok || r.first > t) {
		err = fmt.Errorf("%w: there is no mutation %d", mutlog.ErrCorrupt, t)
	}
	return r, err
}

// Head implements mutlog.Reader.
func (tx *boltTx) Head() (mutlog.Timestamp, error) {
	r, ok, err := tx.last()
	if err != nil || !ok {
		return mutlog.Beginning, err
	}
	return r.head(), nil
}

// maxReadBytes bounds what one read copies out of the file, beyond its first
// batch.
const maxReadBytes = 1 << 20

// batches calls fn with the batches that have mutations later than after, until
// they hold n mutations or fill maxReadBytes. more tells that there are others.
func (tx *boltTx) batches(after mutlog.Timestamp, n int, fn func(record) error) (more bool, err error) {
	size := 0
	r, ok, err := tx.from(after)
	for ok && err == nil {
		if n <= 0 || size > 0 && size+r.size() > maxReadBytes {
			return true, nil
		}
		if err := fn(r); err != nil {
			return false, err
		}
		n -= r.n
		size += r.size()
		r, ok, err = tx.record(tx.cursor.Next())
	}
	return false, err
}

// Batches implements mutlog.Reader.
func (tx *boltTx) Batches(after mutlog.Timestamp, n int) (batches []*mutlog.Batch, err error) {
	_, err = tx.batches(after, n, func(r record) error {
		b, err := r.batch()
		batches = append(batches, b)
		return err
	})
	return batches, err
}

// Changes implements mutlog.Reader. A mutation that a later one of the stretch
// supersedes is found by the links that lead back from those; whether one
// behind the stretch does, the index says.
func (tx *boltTx) Changes(after, until mutlog.Timestamp, n int) ([]mutlog.Entry, mutlog.Timestamp, error) {
	entries := make([]mutlog.Entry, 0, min(n+100, 4196))
	more, err := tx.batches(after, n, func(r record) (err error) {
		if r.first <= until {
			entries, err = r.appendEntries(entries)
		}
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	entries = within(entries, after, until)
	if len(entries) == 0 {
		return nil, until, nil
	}
	upTo := entries[len(entries)-1].Timestamp
	if !more {
		upTo = until
	}
	entries = dropSuperseded(entries)
	if upTo < until {
		entries, err = tx.dropNotNewest(entries, until)
	}
	return entries, upTo, err
}

// within returns the entries later than after and not later than until.
func within(entries []mutlog.Entry, after, until mutlog.Timestamp) []mutlog.Entry {
	for len(entries) > 0 && entries[0].Timestamp <= after {
		entries = entries[1:]
	}
	for len(entries) > 0 && entries[len(entries)-1].Timestamp > until {
		entries = entries[:len(entries)-1]
	}
	return entries
}

// BatchByKey implements mutlog.Reader.
func (tx *boltTx) BatchByKey(key string) (*mutlog.Batch, error) {
	k := tx.prefix.receiptKey(key)
	found, v := tx.cursor.Seek(k)
	if !bytes.Equal(found, k) {
		return nil, nil
	}
	first, err := decodeReceipt(k, v)
	if err != nil {
		return nil, err
	}
	r, err := tx.at(first)
	if err != nil {
		return nil, err
	}
	b, err := r.batch()
	if err == nil && b.Key != key {
		err = fmt.Errorf("%w: the receipt of an Idempotency-Key names batch %d, which has another", mutlog.ErrCorrupt, first)
	}
	return b, err
}

// BatchesOn implements mutlog.Reader. A batch that was not merged is the one
// right behind its base; merged ones are listed under theirs.
func (tx *boltTx) BatchesOn(base mutlog.Timestamp) (batches []*mutlog.Batch, err error) {
	r, ok, err := tx.from(base)
	if err != nil {
		return nil, err
	}
	var found []record
	if ok && r.base == base {
		found = append(found, r)
	}
	var merged []mutlog.Timestamp
	start := tx.prefix.mergedKey(base, 0)
	for k, _ := tx.cursor.Seek(start); bytes.HasPrefix(k, start[:keySize]); k, _ = tx.cursor.Next() {
		merged = append(merged, mergedBatch(k))
	}
	for _, first := range merged {
		if r, err = tx.at(first); err != nil {
			return nil, err
		}
		found = append(found, r)
	}
	for _, r := range found {
		b, err := r.batch()
		if err != nil {
			return nil, err
		}
		if b.Key == "" {
			batches = append(batches, b)
		}
	}
	return batches, nil
}

// Append implements mutlog.Tx.
func (tx *boltTx) Append(b *mutlog.Batch) error {
	w := tx.write
	w.previous = b.Previous
	settled, err := tx.settle(b, w)
	if err != nil {
		return err
	}
	w.put(tx.prefix.key(kindBatch, b.First()), encodeRecord(tx.prefix, b, settled))
	if b.Previous == mutlog.Beginning {
		k := tx.prefix.key(kindUser, 0)
		w.put(k, encodeUser(k, tx.name))
	}
	if b.Key != "" {
		k := tx.prefix.receiptKey(b.Key)
		w.put(k, encodeReceipt(k, b.First()))
	} else if b.Base != b.Previous {
		w.put(tx.prefix.mergedKey(b.Base, b.First()), nil)
	}
	return nil
}
