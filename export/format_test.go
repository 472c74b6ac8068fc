package export_test

import (
	"bytes"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tidemark/export"
	"tidemark/mutlog/mutlogtest"
)

var golden = flag.Bool("golden", false, "write testdata anew; only before its format is released")

// Exports of every version that was released can be imported, and come out again
// as they went in, but for the time in the header; newer ones are refused
// (TestChanged).
func TestOldExports(t *testing.T) {
	t.Parallel()
	const kept = "testdata/export-1.ndjson"
	if *golden {
		from := open(t)
		fill(t, from, 40)
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(kept, exported(t, from), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(kept)
	if err != nil {
		t.Fatal(err)
	}
	to := open(t)
	sum, err := (&export.Import{Store: to}).Run(t.Context(), bytes.NewReader(text))
	if err != nil || sum.User != "alice" || sum.Batches != 40 {
		t.Fatalf("%+v, %v", sum, err)
	}
	mutlogtest.CheckSound(t, to)
	want, got := bytes.SplitAfter(text, []byte("\n")), bytes.SplitAfter(exported(t, to), []byte("\n"))
	if diff := cmp.Diff(want[1:len(want)-2], got[1:len(got)-2]); diff != "" {
		t.Errorf("(- kept, + exported again)\n%s", diff)
	}
}
