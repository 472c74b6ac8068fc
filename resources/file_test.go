package resources

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tidemark/mutlog"
)

// write puts files into a directory of their own, named before a line "---",
// and returns the path of the first.
func write(t testing.TB, files ...string) string {
	t.Helper()
	dir, first := t.TempDir(), ""
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.WriteFile(path, []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
		if first == "" {
			first = path
		}
	}
	return first
}

// read reads a resource file of this text, which must be right.
func read(t testing.TB, text string) mutlog.Kinds {
	t.Helper()
	kinds, err := Read(write(t, "resources.yaml", text))
	if err != nil {
		t.Fatal(err)
	}
	return kinds
}

func TestRead(t *testing.T) {
	path := write(t, "resources.yaml", `# what there is
resources:
  NOTE: # nothing more
  LINK:
    key: [from, to]
    scope: sync:links
    maxDataBytes: 4096
    maxResources: 1000
  MARK: {schema: {type: object}}
  PAGE: {schema: page.json}
  TEXT: {schema: text.yaml}
`, "page.json", "{\n\t\"type\": \"object\", \"required\": [\"n\"]}", "text.yaml", "true")
	kinds, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	want := mutlog.Kinds{
		"NOTE": {}, "MARK": {}, "PAGE": {}, "TEXT": {},
		"LINK": {Key: []string{"from", "to"}, Scope: "sync:links", DataBytes: 4096, Resources: 1000},
	}
	if diff := cmp.Diff(want, kinds, cmpopts.IgnoreFields(mutlog.Kind{}, "Schema")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	for name, has := range map[string]bool{"NOTE": false, "LINK": false, "MARK": true, "PAGE": true, "TEXT": true} {
		if got := kinds[name].Schema != nil; got != has {
			t.Errorf("%s has a schema: %t", name, got)
		}
	}
	if found := kinds["PAGE"].Schema.Validate([]byte(`{}`)); len(found) != 1 {
		t.Errorf("got %v", found)
	}
}

// TestProblems: what is wrong is told with its place, all of it.
func TestProblems(t *testing.T) {
	tests := []struct {
		name  string
		files []string
		want  []string
	}{
		{"an empty file", []string{"r.yaml", ""}, []string{"r.yaml:1:1: the file is empty"}},
		{"comments only", []string{"r.yaml", "# nothing\n"}, []string{"r.yaml:1:1: the file is empty"}},
		{"a list", []string{"r.yaml", "- NOTE\n"}, []string{"r.yaml:1:1: here must be a mapping with some of: resources"}},
		{"no resources", []string{"r.yaml", "resources: {}\n"}, []string{"r.yaml:1:1: resources must list at least one resource"}},
		{"bad YAML", []string{"r.yaml", "resources:\n  NOTE: {scope: a\n"}, []string{"r.yaml:2:9: could not find flow mapping end token '}'"}},
		{"nested brackets", []string{"r.yaml", "resources:\n  A: {schema: " + strings.Repeat("[", 1<<17)}, []string{"r.yaml:2:114: it is nested over 100 levels"}},
		{"nested lists", []string{"r.yaml", strings.Repeat("- ", 1<<16)}, []string{"r.yaml:1:201: it is nested over 100 levels"}},
		{"nested JSON", []string{"r.json", strings.Repeat("[", 1<<17)}, []string{"r.json:1:102: it is nested over 100 levels"}},
		{"two documents", []string{"r.yaml", "resources: {A: }\n---\nx: 1\n"}, []string{"r.yaml:3:2: a second document begins here"}},
		{"twice", []string{"r.yaml", "resources:\n  A:\n  B:\n  A:\n"}, []string{`r.yaml:4:3: "A" is there twice`}},
		{"an anchor", []string{"r.yaml", "resources:\n  A: &a {}\n  B: *a\n"}, []string{
			"r.yaml:2:6: anchors, aliases, tags and numbers that are none are not supported",
			"r.yaml:3:6: anchors, aliases, tags and numbers that are none are not supported"}},
		{"everything else", []string{"r.yaml", `version: 1
resources:
  note:
  A: 1
  B: {scopes: a, scope: "a b"}
  C: {scope: sync, key: []}
  D: {key: [a, a, 1, ""]}
  E: {maxDataBytes: 1, maxResources: 0}
  F: {maxDataBytes: 1.5, maxResources: many}
  G: {maxDataBytes: 0x10, schema: 1}
`}, []string{
			"r.yaml:10:21: 0x10 is not a decimal number as JSON writes it"}},
		{"what it says", []string{"r.yaml", `version: 1
resources:
  note:
  A: 1
  B: {scopes: a, scope: "a b"}
  C: {scope: sync, key: []}
  D: {key: [a, a, 1, ""]}
  E: {maxDataBytes: 1, maxResources: 0}
  F: {maxDataBytes: 1.5, maxResources: many}
  G: {schema: 1}
  H: {schema: nowhere.json}
`}, []string{
			`r.yaml:1:1: unknown member "version"; there are: resources`,
			`r.yaml:3:3: "note" is no name of a resource: capital letters, digits and _, beginning with a letter, at most 64`,
			"r.yaml:4:3: here must be a mapping with some of: scope, key, maxDataBytes, maxResources, schema",
			`r.yaml:5:7: unknown member "scopes"; there are: scope, key, maxDataBytes, maxResources, schema`,
			`r.yaml:5:18: scope must be a word of at most 255 printable ASCII characters without " \ and ,`,
			`r.yaml:6:7: scope must not be "sync", which every call asks for anyway`,
			"r.yaml:6:20: key must be a list of 1 to 8 names of members of the data",
			`r.yaml:7:16: key has "a" twice`,
			"r.yaml:7:19: key must list names of members of the data",
			"r.yaml:7:22: key must list names of members of the data",
			"r.yaml:8:7: maxDataBytes must be an integer from 2 to 1073741824",
			"r.yaml:8:24: maxResources must be an integer from 1 to 9007199254740991",
			"r.yaml:9:7: maxDataBytes must be an integer from 2 to 1073741824",
			"r.yaml:9:26: maxResources must be an integer from 1 to 9007199254740991",
			"r.yaml:10:7: schema must be a JSON Schema or the name of a file with one",
			"r.yaml:11:7: the schema file nowhere.json cannot be read: no such file or directory"}},
		{"a wrong schema", []string{"r.yaml", `resources:
  A:
    schema:
      type: strng
      properties:
        a: {minimum: "1", $ref: "#/$defs/none"}
  B:
    schema: {$schema: "http://json-schema.org/draft-07/schema#", pattern: "("}
`}, []string{
			`r.yaml:6:27: $ref "#/$defs/none" refers to nothing in the schema`,
			"r.yaml:8:14: $schema must be https://json-schema.org/draft/2020-12/schema"}},
		{"a schema with wrong values", []string{"r.yaml", `resources:
  A:
    schema:
      properties:
        a: {minimum: "1"}
        b: {maxLength: -1}
`}, []string{
			"r.yaml:5:13: the schema is wrong here: got string, want number",
			"r.yaml:6:13: the schema is wrong here: must be at least 0"}},
		{"patterns and references", []string{"r.yaml", `resources:
  A:
    schema:
      properties:
        a: {pattern: "("}
        b: {patternProperties: {"[": true}}
        c: {$ref: "https://example.com/a.json"}
        d: {$ref: "b.json#/x"}
`}, []string{
			"r.yaml:5:13: error parsing regexp: missing closing ): `(`",
			"r.yaml:6:33: error parsing regexp: missing closing ]: `[`",
			`r.yaml:7:13: $ref "https://example.com/a.json" refers to another file or address, of which nothing is loaded`,
			`r.yaml:8:13: $ref "b.json#/x" refers to another file or address, of which nothing is loaded`}},
		{"a huge number", []string{"r.yaml", "resources: {A: {schema: {minimum: 1e99999}}}"}, []string{
			"r.yaml:1:26: a number of that size is not supported"}},
		{"schema files", []string{"r.yaml", "resources:\n  A: {schema: a.json}\n  B: {schema: b.json}\n  C: {schema: c.yaml}\n  D: {schema: d.json}\n",
			"a.json", "{\n  \"type\": \"object\",\n  \"x\": tru }", "b.json", "{\"minLength\": 1,\n  \"maxLength\": [ \"a\"]}",
			"c.yaml", "a: [", "d.json", "{} {}"}, []string{
			"a.json:3:11: invalid character ' ' in literal true (expecting 'e')",
			"b.json:2:3: the schema is wrong here: got array, want integer",
			"c.yaml:1:4: sequence end token ']' not found",
			"d.json:1:4: there is more after the JSON value"}},
		{"the same name twice in JSON", []string{"r.json", `{"resources": {"A": null, "A": null}}`}, []string{
			`r.json:1:27: duplicate object member name`}},
		{"not UTF-8", []string{"r.yaml", "resources:\n  A: {scope: \xff}\n"}, []string{"r.yaml:1:1: it is not UTF-8"}},
		{"a schema without end", []string{"r.yaml", "resources:\n  A: {schema: {allOf: [{$ref: '#'}]}}\n"}, []string{"r.yaml:2:7: the schema is wrong: it refers to itself without end"}},
		{"an older schema within", []string{"r.yaml", "resources: {A: {schema: {$defs: {a: {$schema: 'http://json-schema.org/draft-07/schema#'}}}}}\n"}, []string{
			"r.yaml:1:38: $schema must be https://json-schema.org/draft/2020-12/schema"}},
		{"half a JSON file", []string{"r.json", `{"resources": {`}, []string{"r.json:1:16: it ends too early"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := write(t, test.files...)
			kinds, err := Read(path)
			var problems Problems
			if kinds != nil || !errors.As(err, &problems) {
				t.Fatalf("got %v, %v", kinds, err)
			}
			got := strings.Split(strings.ReplaceAll(problems.Error(), filepath.Dir(path)+string(filepath.Separator), ""), "\n")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestRightFiles: what an editor may leave in a file is no problem.
func TestRightFiles(t *testing.T) {
	for _, text := range []string{"\xef\xbb\xbfresources:\n  A:\n", "resources:\r\n  A:\r\n    scope: x\r\n", "---\nresources: {A: {}}\n...\n",
		"resources:\n  A: {schema: {properties: {sub: {$ref: '#'}, default: {$ref: '#/properties/sub'}}, enum: [{$ref: '#/none'}, {}]}}\n"} {
		if kinds := read(t, text); kinds["A"] == nil {
			t.Errorf("%q: %v", text, kinds)
		}
	}
	if _, err := Read(write(t, "r.json", "\xef\xbb\xbf{\"resources\":{\"A\":null}}")); err != nil {
		t.Error(err)
	}
}

// TestGuarded: a library that panics ends no server.
func TestGuarded(t *testing.T) {
	kinds, err := guarded("r.yaml", func() (mutlog.Kinds, error) { panic("what it said") })
	if kinds != nil || err == nil || err.Error() != "r.yaml cannot be read: what it said" {
		t.Errorf("got %v, %v", kinds, err)
	}
}

func TestReadNothing(t *testing.T) {
	large := write(t, "large.yaml", "resources: {A: }\n"+strings.Repeat("#", maxFileBytes))
	for _, path := range []string{filepath.Join(t.TempDir(), "none.yaml"), t.TempDir(), large} {
		_, err := Read(path)
		var problems Problems
		if err == nil || errors.As(err, &problems) {
			t.Errorf("%s: got %v", path, err)
		}
	}
}

// FuzzRead: no text makes reading it panic, and every problem has a place in it.
func FuzzRead(f *testing.F) {
	for _, text := range []string{"resources: {A: {schema: {type: object}}}", "resources:\n  A:\n    key: [a]\n", "- &a [*a]", "a: !!x b", "? {a: b}\n: c",
		"resources: {A: {schema: {$id: 'x', $ref: 'x'}}}"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"r.yaml", "r.json"} {
			kinds, err := Read(write(t, name, text))
			var problems Problems
			if err == nil {
				for _, kind := range kinds {
					if kind.Schema != nil {
						kind.Schema.Validate([]byte(`{"a":[1e3,"x",null]}`))
					}
				}
				continue
			}
			if kinds != nil || !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("got %v, %v", kinds, err)
			}
			for _, p := range problems {
				if p.Line < 1 || p.Column < 1 || p.Message == "" {
					t.Errorf("no place: %v", p)
				}
			}
		}
	})
}
