package mutlog

import (
	"context"
	"iter"
	"strings"
	"unicode"
	"unicode/utf8"
)

// User names whose log it is: 1 to 255 bytes of UTF-8 without control characters.
type User string

// MaxUserBytes is the length of a User at most.
const MaxUserBytes = 255

// Valid tells whether u is one.
func (u User) Valid() bool {
	return u != "" && len(u) <= MaxUserBytes && utf8.ValidString(string(u)) && !strings.ContainsFunc(string(u), unicode.IsControl)
}

// Entry is one mutation as the log keeps it.
type Entry struct {
	// Mutation is what was accepted: Data is the data of a CREATE or the patch
	// of an UPDATE, as it was sent.
	Mutation

	// Assigned tells that the server chose the ResourceID.
	Assigned bool

	// State is the data of the resource after this mutation; nil if that left
	// a tombstone. It may share its bytes with Data.
	State []byte

	// Prev is the timestamp of the mutation of the same resource before this
	// one, or Beginning. Following it goes back through the resource's past, as
	// far as that was not pruned.
	Prev Timestamp

	// Born is the timestamp of the mutation that began the resource's present
	// life, which may be this one; Beginning if this one left a tombstone.
	Born Timestamp
}

// Live tells whether the resource exists after this mutation.
func (e *Entry) Live() bool { return e.State != nil }

// Batch is one push that was applied: its mutations, and what recognises the
// same push when it comes again (its receipt).
type Batch struct {
	// Base is the cursor that the push came with.
	Base Timestamp

	// Previous is the head of the log before this batch. It differs from Base
	// if the push was merged.
	Previous Timestamp

	// Client is the x-client-id of the push, or "".
	Client string

	// Key is the Idempotency-Key of the push, or "".
	Key string

	// Live counts what is live after the batch: the kinds of resources whose
	// number is bounded each by its name, all others together under ""; nil
	// where nobody counted.
	Live map[string]Count

	// Entries are the mutations, at least one, with increasing timestamps:
	// consecutive ones, until pruning drops some of them.
	Entries []Entry
}

// Count is how many resources there are, and the bytes of their data.
type Count struct{ Resources, Bytes int64 }

// First returns the timestamp of the first mutation of b.
func (b *Batch) First() Timestamp { return b.Entries[0].Timestamp }

// Head returns the timestamp of the newest mutation of b: the head of the log
// after it.
func (b *Batch) Head() Timestamp { return b.Entries[len(b.Entries)-1].Timestamp }

// Store keeps the logs of all users. It decides nothing: no rule, no clock, no
// validation. This is the contract of every backend; the conformance suite in
// package store holds them to it.
//
//   - Updates of one user are serialised across goroutines, processes and
//     restarts. Users share nothing: the updates of different users may be
//     committed together.
//   - When Update returns nil, what it appended is on disk, and every View that
//     starts later sees it. When fn fails, nothing of it is visible and its
//     error comes back unchanged.
//   - fn may run more than once, and must have no effect but through tx. It
//     must not keep tx, nor wait for anything but tx.
//   - What Newest, Changes and History hand out is only valid until fn returns,
//     and must not be changed: a pull would otherwise copy all that it reads,
//     and a push all that it replaces. The rest belongs to the caller.
//   - Missing is never an error.
//   - Errors of the store itself wrap ErrUnavailable, ErrOutcomeUnknown or
//     ErrCorrupt.
//
// Beside the logs a store keeps records: small values of whatever the server
// must remember, such as tokens.
type Store interface {
	// View runs fn on one consistent state of the log of user.
	View(ctx context.Context, user User, fn func(tx Reader) error) error

	// Update runs fn on the newest state of the log of user and makes what it
	// appended durable.
	Update(ctx context.Context, user User, fn func(tx Tx) error) error

	// Users calls fn with every user who has a log, in any order, until fn
	// fails. It works in steps; a user who appears meanwhile may be missed.
	Users(ctx context.Context, fn func(User) error) error

	// Record returns the value of the record, or nil if there is none.
	Record(ctx context.Context, key RecordKey) ([]byte, error)

	// UpdateRecord replaces the value of the record by what fn returns of it,
	// durably; nil removes the record. fn gets nil if there is none. It is
	// atomic against every other UpdateRecord of the key, of whatever process.
	// fn may run more than once, and when it fails, nothing changes and its
	// error comes back unchanged. The slice that it gets is its own.
	UpdateRecord(ctx context.Context, key RecordKey, fn func(old []byte) ([]byte, error)) error

	// Records yields the records of a kind, of one owner or, if owner is "", of
	// all, in the order of keys: by kind, owner and name. With neither kind nor
	// owner it yields all that there are. It works in steps: one that changes
	// meanwhile is yielded as it was or as it is.
	Records(ctx context.Context, kind, owner string) iter.Seq2[Record, error]

	// Follow calls heard with the head of a log soon after each push that was
	// made durable, through whatever process, until ctx is done, and returns
	// the error of ctx, or one of the store's. Several heads of one log may come
	// as one, the newest. missed is called at first, once every later push is
	// heard of, and whenever heads may have been missed, because a connection
	// was lost and is back: then whoever waits must look for themselves. Calls
	// come one after the other and must not block. A head is never told before
	// every View that starts later sees it.
	Follow(ctx context.Context, heard func(User, Timestamp), missed func()) error

	// Erase removes the log of user, all its bytes and the records whose Owner
	// is the name of user, in steps, and calls progress with how many mutations
	// it has removed so far. From its beginning on the log has the gap from
	// Beginning to until, or to its head if that is later. That gap is all that
	// stays, under a hash of the name: the log is empty and not listed.
	// Interrupted, Erase goes on where it was when it is called again.
	Erase(ctx context.Context, user User, until Timestamp, progress func(mutations int)) error

	// Fence records that the store was restored at the time at from what it had
	// been earlier: every log has a gap from its head of this moment to at. A
	// fence stays for ever, and counts for logs that begin later, too.
	Fence(ctx context.Context, at Timestamp) error

	// Check verifies the backend's own structure and checksums and calls
	// report with each fault, which names its place. It does not know the
	// rules of the log; the Check of this package does.
	Check(ctx context.Context, report func(problem string)) error

	// Close waits for what is under way and releases the store.
	Close() error
}

// Reader reads the log of one user.
type Reader interface {
	// Head returns the timestamp of the newest mutation, or Beginning. It is
	// one look-up, whatever the size of the log.
	Head() (Timestamp, error)

	// Bounds returns what the log no longer holds, the gaps of fences included.
	// It is free where the log has nothing of the kind.
	Bounds() (Bounds, error)

	// Newest returns, for each of refs, the newest mutation of that resource
	// that is not later than at, or nil if there is none.
	Newest(refs []Ref, at Timestamp) ([]*Entry, error)

	// BatchByKey returns the batch that was pushed with the Idempotency-Key, or
	// nil.
	BatchByKey(key string) (*Batch, error)

	// BatchesOn yields the batches that were pushed without a key on the
	// cursor base, merged ones included, one after the other: there is no bound
	// to how many a client can merge on one cursor.
	BatchesOn(base Timestamp) iter.Seq2[*Batch, error]

	// Batches returns batches in order, as far as they have mutations later
	// than after: as many as make up about n mutations, fewer if they are large
	// but at least one if there is any.
	Batches(after Timestamp, n int) ([]*Batch, error)

	// Changes reads a stretch of the log of about n mutations, fewer if they
	// are large but at least one, from those later than after and not later
	// than until. It returns, in order, those of them that are the newest of
	// their resource as of until, and the timestamp up to which it read: until,
	// once there is no more. A stretch can be without changes. What it returns
	// is also not valid any more once it is called again.
	Changes(after, until Timestamp, n int) (changes []Entry, upTo Timestamp, err error)

	// History is Changes without leaving out what was superseded.
	History(after, until Timestamp, n int) (entries []Entry, upTo Timestamp, err error)
}

// Tx reads and extends the log of one user.
type Tx interface {
	Reader

	// SetBounds replaces the bounds of the log, which may be empty. It may be
	// called once, before Append; Bounds still returns the old ones. From then
	// on the gaps of earlier fences are those that bounds has.
	SetBounds(bounds Bounds) error

	// Prune drops, of the batches that lie wholly behind after and not behind
	// until, all mutations but those whose timestamps are in keep, in order, and
	// all that BatchByKey and BatchesOn find. What is left keeps its timestamps
	// and stands in batches without Client and Key, of any size, the newest of
	// which counts what was live after the newest batch that was pruned; their
	// Base and Previous say only that they follow what is before them. Prev of
	// a mutation may be one that was dropped, and so may Previous and Base of a
	// batch: Newest then finds nothing, or what is left.
	//
	// It may be called once, and not with Append. Bounds.Pruned must not be
	// earlier than until; SetBounds may come first. What is pushed meanwhile does
	// not make fn run again.
	Prune(after, until Timestamp, keep []Timestamp) error

	// Append adds batch to the log and to what BatchByKey and BatchesOn find.
	// It may be called once, last, with a batch whose Previous is the head, or,
	// to copy a log that was pruned, later but not than Bounds.Pruned. One that
	// is wholly not later than that is not found as a receipt.
	Append(batch *Batch) error
}
