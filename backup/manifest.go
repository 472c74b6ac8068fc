package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"tidemark/store"
)

// Layout of a backup
//
//	┌──────────────────────────┬──────────────────────────────────────────────┐
//	│ the pages of a store     │ 4096 bytes: the manifest, one line of JSON,  │
//	│ (package store)          │ filled up with spaces before its line feed   │
//	└──────────────────────────┴──────────────────────────────────────────────┘
//
// What reads the store goes by the size that the store knows itself, and does
// not see the manifest.
const manifestSize = 4096

// manifestVersion is the version of the layout above.
const manifestVersion = 1

// Manifest says what a backup holds.
type Manifest struct {
	Kind    string    `json:"tidemark"` // "backup"
	Version int       `json:"version"`  // of the manifest
	Made    time.Time `json:"made"`     // when its state was that of the store
	Store   string    `json:"store"`    // the id of the store
	Format  int       `json:"format"`   // of the store
	Users   int       `json:"users"`    // who have a log
	Batches uint64    `json:"batches"`  // in all logs
	Bytes   int64     `json:"bytes"`    // of the store, before the manifest
	SHA256  string    `json:"sha256"`   // of those bytes, in hexadecimal
}

const kindBackup = "backup"

// ErrNoBackup: a file is no backup, or not all of one.
var ErrNoBackup = errors.New("is no complete backup of tidemark")

// Read returns the manifest of a backup, and verifies that the file has the
// size it tells; Verify verifies its bytes.
func Read(path string) (*Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readManifest(f)
}

func readManifest(f *os.File) (*Manifest, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	line := make([]byte, manifestSize)
	if _, err := f.ReadAt(line, info.Size()-manifestSize); err != nil {
		return nil, fmt.Errorf("%s %w", f.Name(), ErrNoBackup)
	}
	m := new(Manifest)
	if err := json.Unmarshal(line, m); err != nil || m.Kind != kindBackup {
		return nil, fmt.Errorf("%s %w", f.Name(), ErrNoBackup)
	}
	switch {
	case m.Version > manifestVersion:
		return nil, fmt.Errorf("%s %w", f.Name(), store.ErrNewer)
	case m.Bytes != info.Size()-manifestSize:
		return nil, fmt.Errorf("%s %w: it has %d bytes, and should have %d", f.Name(), ErrNoBackup, info.Size()-manifestSize, m.Bytes)
	}
	return m, nil
}

// Verify reads a backup to its end and verifies that not a bit of it has
// changed since it was made.
func Verify(path string) (*Manifest, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return copyStore(f, io.Discard)
}

// copyStore copies the store in a backup to w, and verifies it.
func copyStore(f *os.File, w io.Writer) (*Manifest, error) {
	m, err := readManifest(f)
	if err != nil {
		return nil, err
	}
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, hash), io.NewSectionReader(f, 0, m.Bytes)); err != nil {
		return nil, err
	}
	if hex.EncodeToString(hash.Sum(nil)) != m.SHA256 {
		return nil, fmt.Errorf("%s %w: its checksum is another", f.Name(), ErrNoBackup)
	}
	return m, nil
}

// appendTo writes m behind the store in f.
func (m *Manifest) appendTo(f *os.File) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	padded := append(line, bytes.Repeat([]byte(" "), manifestSize-len(line)-1)...)
	_, err = f.WriteAt(append(padded, '\n'), m.Bytes)
	return err
}
