package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
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

// The buckets, see layout.go.
var (
	bucketMeta    = []byte("tidemark")
	bucketGroups  = []byte("groups")
	bucketLogs    = []byte("logs")
	bucketRecords = []byte("records") // and "garbage", see garbage.go

	metaFormat = []byte("format") // decimal text
	metaID     = []byte("id")     // the ULID of this store
)

// BoltOptions tune a bbolt store; the zero value is what serve uses.
type BoltOptions struct {
	// ReadOnly opens an existing file without the right to change it, beside
	// other readers.
	ReadOnly bool

	// AnyFileSystem accepts a network file system, too.
	AnyFileSystem bool

	// QueueLength bounds how many pushes wait for the disk; more are refused
	// with mutlog.ErrUnavailable. 0 means 1024.
	QueueLength int

	// FoldBatches is how many batches gather before they are folded, see
	// recent.go; 0 means foldBatches.
	FoldBatches int

	// Committed, if not nil, is told of each transaction. The next one waits
	// for it.
	Committed func(Commit)

	// NoSync gives up durability, to prove that a test would notice.
	NoSync bool
}

// Bolt is a store in one bbolt file.
type Bolt struct {
	db   *bolt.DB
	path string
	file os.FileInfo // as it was opened

	queue    chan *write
	stopping sync.RWMutex // held for reading while sending to queue
	stopped  bool
	done     chan struct{} // closed when the committer has ended

	recent      *recent
	foldBatches int
	committed   func(Commit) // or nil
	fences      atomic.Pointer[[]fence]
	gaps        atomic.Uint64 // how often logs have got gaps
	folds       atomic.Uint64 // how often recent places were forgotten
	followers   followers
	kept        kept

	// The committer's:
	state     state  // of the newest transaction
	lastGroup uint64 // the number of the newest group
	folded    uint64 // that of the newest one up to which all are
	cleaned   uint64 // that of the one that was looked at last for garbage
	fold      *fold  // under way, or nil

	stuck atomic.Bool // a panic may have left locks of db held

	failed     chan struct{}
	failedOnce sync.Once
	isFailed   atomic.Bool
}

// OpenBolt opens the store in the bbolt file at path, and creates it if it does
// not exist, unless it is to be read only.
func OpenBolt(path string, options BoltOptions) (*Bolt, error) {
	if !options.AnyFileSystem && !options.ReadOnly {
		if err := refuseNetwork(path); err != nil {
			return nil, err
		}
	}
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
	case info.Size() < 2*4096: // the meta pages
		// A file that has lost its content must not become a new, empty store.
		return nil, fmt.Errorf("store %s %w: it has %d bytes only", path, ErrDamaged, info.Size())
	}
	s, err := openFile(path, options)
	if err != nil {
		return nil, fmt.Errorf("store %s %w", path, err)
	}
	if options.ReadOnly {
		close(s.done)
		return s, nil
	}
	if err := s.syncAll(options); err != nil {
		if !s.stuck.Load() {
			s.db.Close()
		}
		return nil, fmt.Errorf("store %s cannot be synced: %w", path, err)
	}
	s.queue = make(chan *write, cmp.Or(options.QueueLength, 1024))
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
	if s.state.clean {
		return s.markClean(false)
	}
	return nil
}

// openFile opens a store in a file and verifies what can be in no time. bbolt
// panics on some damaged files, and reading a page that the file does not have
// faults; both become ErrDamaged.
func openFile(path string, options BoltOptions) (s *Bolt, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("%w: a page is cut off, or is not what it should be", ErrDamaged)
		}
	}()
	db, file, err := openBolt(path, options)
	if err != nil {
		return nil, err
	}
	s = &Bolt{db: db, path: path, file: file, foldBatches: cmp.Or(options.FoldBatches, foldBatches), committed: options.Committed, failed: make(chan struct{}), done: make(chan struct{})}
	if info, statErr := os.Stat(path); statErr != nil || !os.SameFile(info, file) {
		err = fmt.Errorf("%w: it was replaced while this one waited for it", ErrInUse)
	} else {
		s.state, err = checkFormat(db)
	}
	if err == nil {
		err = checkMetas(db, s.state)
	}
	if err == nil {
		err = db.View(func(tx *bolt.Tx) (err error) {
			if s.recent, s.lastGroup, err = readRecent(tx); err != nil {
				return err
			}
			if s.folded, err = readFolded(tx); err != nil {
				return err
			}
			fences, err := readFences(tx)
			s.fences.Store(&fences)
			return err
		})
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return s, nil
}

// openBolt opens a file and tells which one it has got: path may name another
// by the time that the lock is free.
func openBolt(path string, options BoltOptions) (db *bolt.DB, file os.FileInfo, err error) {
	openFile := func(name string, flag int, mode os.FileMode) (*os.File, error) {
		f, err := os.OpenFile(name, flag, mode)
		if err == nil {
			file, err = f.Stat()
		}
		return f, err
	}
	db, err = bolt.Open(path, 0o600, &bolt.Options{
		OpenFile: openFile,
		Timeout:  5 * time.Second, // a server that is draining may still hold the lock
		ReadOnly: options.ReadOnly,
		NoSync:   options.NoSync,
		// The array type degrades on a fragmented file.
		FreelistType: bolt.FreelistMapType,
		// A file that outgrows its mapping is mapped anew, for which all
		// readers must end; address space costs nothing.
		InitialMmapSize: initialMmapSize,
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
	return db, file, err
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
		for _, name := range [][]byte{bucketLogs, bucketGroups, bucketGarbage, bucketRecords} {
			if _, err = tx.CreateBucket(name); err != nil {
				return err
			}
		}
		empty := state{transaction: tx.ID(), clean: true}
		return empty.write(tx)
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

// checkFormat verifies that a file is a store of a format that this version
// knows and has all its pages, and returns its state.
func checkFormat(db *bolt.DB) (st state, err error) {
	info, err := os.Stat(db.Path())
	if err != nil {
		return st, err
	}
	return st, db.View(func(tx *bolt.Tx) error {
		if info.Size() < tx.Size() {
			return fmt.Errorf("%w: it was cut short, %d bytes of %d are left", ErrDamaged, info.Size(), tx.Size())
		}
		meta := tx.Bucket(bucketMeta)
		for _, name := range [][]byte{bucketMeta, bucketLogs, bucketGroups, bucketGarbage, bucketRecords} {
			if tx.Bucket(name) == nil {
				return ErrDamaged
			}
		}
		format, err := strconv.Atoi(string(meta.Get(metaFormat)))
		switch {
		case err != nil || format < 1:
			return fmt.Errorf("%w: its format is %q", ErrDamaged, meta.Get(metaFormat))
		case format > boltFormat:
			return fmt.Errorf("%w: its format is %d, and this version knows %d", ErrNewer, format, boltFormat)
		}
		st, err = readState(tx)
		return err
	})
}

// View implements mutlog.Store.
func (s *Bolt) View(ctx context.Context, user mutlog.User, fn func(mutlog.Reader) error) error {
	return s.view(ctx, prefixOf(user), func(tx *boltTx) error { return fn(tx) })
}

// view runs fn on a snapshot of the log of the user p.
func (s *Bolt) view(ctx context.Context, p prefix, fn func(*boltTx) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.isFailed.Load() {
		return errFailed
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer s.catchFault(&err)
	t, err := s.begin(p)
	if err != nil {
		return fmt.Errorf("%w: %v", mutlog.ErrUnavailable, err)
	}
	defer t.tx.Rollback()
	defer t.release()
	return fn(t)
}

// begin begins a snapshot of the log of the user p. The recent places are taken
// before the transaction, see recent.go; if some were folded meanwhile, pruning
// may already have dropped them.
func (s *Bolt) begin(p prefix) (*boltTx, error) {
	for {
		folds, fences := s.folds.Load(), s.allFences()
		sealed, active := s.recent.of(p)
		tx, err := s.db.Begin(false)
		if err != nil {
			return nil, err
		}
		if s.folds.Load() == folds {
			t := newBoltTx(tx, p, sealed, active)
			t.fences = fences
			return t, nil
		}
		tx.Rollback()
	}
}

// catchFault, deferred with debug.SetPanicOnFault, fails the store if its file
// could not be read, or bbolt panics, with a text of its own, because a page is
// not what it should be: the disk has lost a part, or somebody has cut the file
// short.
func (s *Bolt) catchFault(err *error) {
	r := recover()
	if r == nil {
		return
	}
	_, fault := r.(interface {
		runtime.Error
		Addr() uintptr
	})
	text, _ := r.(string)
	if !fault && !strings.HasPrefix(text, "assertion failed: ") && !strings.HasPrefix(text, "bolt.") {
		panic(r)
	}
	s.stuck.Store(true)
	s.fail()
	*err = fmt.Errorf("%w: it cannot be read: %v", mutlog.ErrUnavailable, r)
}

// Update implements mutlog.Store. fn runs on a snapshot, beside the other users
// and without the lock of the writer; the committer then applies what it
// appended if the head of the log is still the one that it saw, which no two
// batches can share, or else fn runs again. A refusal costs the writer nothing.
func (s *Bolt) Update(ctx context.Context, user mutlog.User, fn func(mutlog.Tx) error) error {
	p := prefixOf(user)
	for {
		w := &write{user: p, name: user, gaps: s.gaps.Load()}
		err := s.view(ctx, p, func(tx *boltTx) error {
			tx.write, tx.name = w, user
			return fn(tx)
		})
		if err != nil || w.record == nil && w.edits == nil {
			return err
		}
		err = s.commit(w)
		if err == errUnfolded {
			err = s.foldAll(ctx)
		} else if err != errRaced {
			return err
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil && err != errRaced {
			return err
		}
	}
}

// Users implements mutlog.Store.
func (s *Bolt) Users(ctx context.Context, fn func(mutlog.User) error) error {
	recent, err := s.recentUsers(ctx) // first: who is folded meanwhile is found among the others
	if err != nil {
		return err
	}
	for _, user := range recent {
		if err := fn(user); err != nil {
			return err
		}
	}
	const step = 1000
	var from prefix
	for last := false; !last; {
		var users []mutlog.User
		err := s.view(ctx, prefix{}, func(tx *boltTx) error {
			k, v := tx.cursor.Seek(from[:])
			for ; k != nil && len(users) < step; k, v = tx.cursor.Seek(from[:]) {
				a, err := decodeAbout(k, v)
				if err != nil {
					return err
				}
				copy(from[:], k)
				if _, known := recent[from]; !known && a.name != "" {
					users = append(users, a.name)
				}
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

// recentUsers returns the users whose logs have begun recently.
func (s *Bolt) recentUsers(ctx context.Context) (map[prefix]mutlog.User, error) {
	users := map[prefix]mutlog.User{}
	for p, oldest := range s.recent.users() {
		if !oldest.apart {
			continue
		}
		err := s.view(ctx, p, func(tx *boltTx) error {
			r, err := tx.record(oldest)
			if err == nil && len(r.name) > 0 {
				users[p] = mutlog.User(r.name)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return users, nil
}

// Clean tells whether the store was closed after its last use; what opened it
// to write has already removed the mark of that.
func (s *Bolt) Clean() bool { return s.state.clean }

// Size returns the size in bytes of the pages in use or used before.
func (s *Bolt) Size() (size int64, err error) {
	return size, s.db.View(func(tx *bolt.Tx) error {
		size = tx.Size()
		return nil
	})
}

// Failed implements Store.
func (s *Bolt) Failed() <-chan struct{} { return s.failed }

// fail ends the service of the store: what is on disk is not known any more.
func (s *Bolt) fail() {
	s.failedOnce.Do(func() {
		s.isFailed.Store(true)
		close(s.failed)
	})
}

// Close implements mutlog.Store. It leaves a mark that the store was closed, if
// it has not failed.
func (s *Bolt) Close() error {
	s.stopping.Lock()
	first := !s.stopped
	if first && s.queue != nil {
		close(s.queue)
	}
	s.stopped = true
	s.stopping.Unlock()
	s.kept.forget()
	if !first {
		return nil
	}
	if s.stuck.Load() {
		return nil // the committer, and bbolt, may wait for a lock for ever
	}
	<-s.done
	if s.stuck.Load() {
		return nil
	}
	var err error
	if s.queue != nil && !s.isFailed.Load() {
		err = errors.Join(s.markClean(true), s.markClean(true)) // in both meta pages, see meta.go
	}
	if s.stuck.Load() {
		return err
	}
	return errors.Join(err, s.db.Close())
}
