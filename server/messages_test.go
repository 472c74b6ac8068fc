package server_test

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What openapi.yaml lists as the messages of a ValidationError of a push are
// those that the hostile requests get, and no others.
func TestListedMessages(t *testing.T) {
	document, err := os.ReadFile("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, list, _ := strings.Cut(string(document), "- Of the batch: ")
	list, _, found := strings.Cut(list, "- Where there is a resource file")
	if !found {
		t.Fatal("openapi.yaml lists no messages")
	}
	var want, got []string
	for _, m := range regexp.MustCompile("`([A-Z][a-z]+ [^`]+)`").FindAllStringSubmatch(list, -1) {
		want = append(want, m[1])
	}
	place, quoted := regexp.MustCompile(` at mutation\[\d+\]$`), regexp.MustCompile(`(?s)".*"$`)
	for _, a := range abuses() {
		if a.want == ve && a.message != "" {
			got = append(got, quoted.ReplaceAllString(place.ReplaceAllString(a.message, ""), `"x"`))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if diff := cmp.Diff(slices.Compact(want), slices.Compact(got)); diff != "" {
		t.Errorf("messages (- openapi.yaml, + the server)\n%s", diff)
	}
}
