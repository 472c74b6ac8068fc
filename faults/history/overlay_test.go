package history

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// smallLimits is the patch for limits that a short history reaches.
const smallLimits = "00-small-limits"

// overlayOf applies patches of the directory bugs to copies of the files that
// they change, and returns an overlay for the go command that puts the copies
// into the place of the files. The tree itself stays as it is.
func overlayOf(t *testing.T, patches ...string) string {
	t.Helper()
	dir := t.TempDir()
	replace := map[string]string{}
	for _, name := range patches {
		patch, err := filepath.Abs(filepath.Join("bugs", name+".patch"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(patch)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			if file, ok := strings.CutPrefix(line, "+++ b/"); ok {
				original, copied := copyFile(t, dir, strings.TrimSpace(file))
				replace[original] = copied
			}
		}
		apply := exec.Command("git", "apply", patch)
		apply.Dir = dir
		apply.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
		if out, err := apply.CombinedOutput(); err != nil {
			t.Fatalf("%s does not apply any more: %v\n%s", name, err, out)
		}
	}
	overlay := filepath.Join(dir, "overlay.json")
	content, err := json.Marshal(map[string]any{"Replace": replace})
	if err == nil {
		err = os.WriteFile(overlay, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return overlay
}

// copyFile copies a file of the server into dir, unless an earlier patch has
// had it copied.
func copyFile(t *testing.T, dir, file string) (original, copied string) {
	t.Helper()
	original, err := filepath.Abs(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	copied = filepath.Join(dir, file)
	if _, err := os.Stat(copied); !errors.Is(err, fs.ErrNotExist) {
		return original, copied
	}
	content, err := os.ReadFile(original)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(copied), 0o700)
	}
	if err == nil {
		err = os.WriteFile(copied, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return original, copied
}
