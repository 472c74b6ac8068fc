package resources

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDocs: the file that docs/resources.md shows is right, its table names the
// members that there are, and the examples are right.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile("../docs/resources.md")
	if err != nil {
		t.Fatal(err)
	}
	_, shown, _ := strings.Cut(string(text), "```yaml\n")
	shown, _, _ = strings.Cut(shown, "```")
	path := write(t, "resources.yaml", shown)
	if err := os.Mkdir(filepath.Join(filepath.Dir(path), "schemas"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "schemas", "bookmark.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); err != nil {
		t.Error(err)
	}

	var named []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-zA-Z]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		named = append(named, m[1])
	}
	_, err = Read(write(t, "resources.yaml", "resources: {A: {x: 1}}"))
	_, known, _ := strings.Cut(err.Error(), "there are: ")
	members := strings.Split(known, ", ")
	slices.Sort(members)
	slices.Sort(named)
	if diff := cmp.Diff(members, named); diff != "" {
		t.Errorf("members (- the reader, + docs)\n%s", diff)
	}

	examples, err := filepath.Glob("../examples/*/resources.yaml")
	if err != nil || len(examples) < 2 {
		t.Fatalf("%v, %v", examples, err)
	}
	for _, path := range examples {
		if _, err := Read(path); err != nil {
			t.Error(err)
		}
	}
}
