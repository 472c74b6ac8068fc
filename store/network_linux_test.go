package store

import "testing"

// TestNetworkKind cannot mount network file systems; it finds that the one of the
// tests is none, and that those of a path that is not there are for others to
// tell of.
func TestNetworkKind(t *testing.T) {
	for _, path := range []string{t.TempDir() + "/tidemark.db", "/nowhere/at/all/tidemark.db"} {
		if kind := networkKind(path); kind != "" {
			t.Errorf("%s is said to be on %s", path, kind)
		}
	}
}
