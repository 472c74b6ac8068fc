package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"tidemark/mutlog"
)

const (
	// refreshEvery is how old keys get before they are fetched anew, and
	// fetchEvery how often they are fetched at most, whatever tokens come.
	refreshEvery = 5 * time.Minute
	fetchEvery   = time.Minute

	// keysLast is how long keys count while the provider cannot be reached.
	keysLast = 72 * time.Hour

	// keysWait is how long a request waits for a fetch that may bring its key.
	keysWait = 75 * time.Millisecond
)

// keySet is the keys of an issuer. It is kept in the store, too, so that a server
// can be started while the provider is down.
type keySet struct {
	issuer  string
	fetch   func(context.Context) ([]byte, error)
	records Records // nil to keep them nowhere else
	now     func() time.Time
	logger  *slog.Logger

	mu       sync.Mutex
	keys     map[string]*key
	text     []byte        // what keys were read from
	version  int           // counts the changes of keys
	fetched  time.Time     // when they were last known to be right
	saved    time.Time     // the fetched that the store has
	tried    time.Time     // when the last fetch began
	fetching chan struct{} // closed when the fetch that is under way ends, or nil
}

// keysRecord is the key set as the store keeps it.
type keysRecord struct {
	Fetched int64           `json:"fetched"` // Unix milliseconds
	Keys    json.RawMessage `json:"keys"`    // the JWK set

	saved int64 // the Fetched that the store has
}

func keysKey(issuer string) mutlog.RecordKey { return recordKey("jwks", issuer, "") }

// load takes the keys that the store has.
func (s *keySet) load(ctx context.Context) error {
	value, err := s.records.Record(ctx, keysKey(s.issuer))
	if err != nil || value == nil {
		return err
	}
	var record keysRecord
	if err := json.Unmarshal(value, &record); err != nil {
		return fmt.Errorf("%w: the keys of %s: %w", mutlog.ErrCorrupt, s.issuer, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saved = time.UnixMilli(record.Fetched)
	return s.takeLocked(record.Keys, s.saved)
}

// takeLocked makes text the key set, which was right at the time at.
func (s *keySet) takeLocked(text []byte, at time.Time) error {
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		return fmt.Errorf("it is no key set: %w", err)
	}
	if text = compact.Bytes(); !bytes.Equal(text, s.text) {
		keys, err := parseKeySet(text)
		if err != nil {
			return err
		}
		s.keys, s.text = keys, text
		s.version++
	}
	s.fetched = at
	return nil
}

// get returns the key of that id and the version of the key set, or nil if there
// is none. A key that is unknown may be new: then the keys are fetched, as often
// as they may be, and get waits for a moment. It fails with mutlog.ErrUnavailable
// if nothing is known of the keys.
func (s *keySet) get(id string) (*key, int, error) {
	k, version, known := s.find(id)
	if k != nil {
		return k, version, nil
	}
	if fetching := s.start(fetchEvery); fetching != nil {
		wait := time.NewTimer(keysWait)
		defer wait.Stop()
		select {
		case <-fetching:
			k, version, known = s.find(id)
		case <-wait.C:
		}
	}
	if !known {
		return nil, 0, fmt.Errorf("%w: the keys of %s are not known", mutlog.ErrUnavailable, s.issuer)
	}
	return k, version, nil
}

func (s *keySet) find(id string) (k *key, version int, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys == nil || s.now().Sub(s.fetched) > keysLast {
		return nil, 0, false
	}
	return s.keys[id], s.version, true
}

// current returns the version of the key set, or -1 if it does not count.
func (s *keySet) current() int {
	if _, version, known := s.find(""); known {
		return version
	}
	return -1
}

// start begins a fetch, unless the last one began less than pause ago. It returns
// what is closed when the fetch under way ends, or nil if none is.
func (s *keySet) start(pause time.Duration) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.fetching == nil && (s.tried.IsZero() || now.Sub(s.tried) >= pause) {
		s.tried, s.fetching = now, make(chan struct{})
		go s.refresh()
	}
	return s.fetching
}

// refresh fetches the keys. If that fails those that there are stay.
func (s *keySet) refresh() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*fetchTimeout)
	defer cancel()
	text, err := s.fetch(ctx)
	record, changed, err := s.take(text, err)
	if err != nil {
		s.logger.Warn("the keys of an issuer could not be fetched", "issuer", s.issuer, "error", err, "last", time.UnixMilli(record.Fetched))
		return
	}
	if changed {
		s.logger.Info("the keys of an issuer have changed", "issuer", s.issuer)
	}
	if s.records != nil && (changed || record.Fetched-record.saved > time.Hour.Milliseconds()) {
		s.save(ctx, record)
	}
}

// take ends a fetch that brought text, or an error, and returns what the store
// should have now.
func (s *keySet) take(text []byte, err error) (record keysRecord, changed bool, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.version
	if err == nil {
		err = s.takeLocked(text, s.now())
	}
	close(s.fetching)
	s.fetching = nil
	return keysRecord{s.fetched.UnixMilli(), s.text, s.saved.UnixMilli()}, s.version != before, err
}

// save keeps the keys in the store.
func (s *keySet) save(ctx context.Context, record keysRecord) {
	value, err := json.Marshal(record)
	if err == nil {
		err = s.records.UpdateRecord(ctx, keysKey(s.issuer), func([]byte) ([]byte, error) { return value, nil })
	}
	if err != nil {
		s.logger.Warn("the keys of an issuer could not be kept", "issuer", s.issuer, "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saved = time.UnixMilli(record.Fetched)
}

// keep fetches the keys when they get old.
func (s *keySet) keep() {
	s.mu.Lock()
	old := s.now().Sub(s.fetched) >= refreshEvery
	s.mu.Unlock()
	if old {
		s.start(fetchEvery)
	}
}
