package resources

import (
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tidemark/mutlog"
)

// schemaOf returns the schema of the one resource that a file is about.
func schemaOf(t testing.TB, schema string) mutlog.Schema {
	t.Helper()
	return read(t, "resources:\n  A:\n    schema: "+schema+"\n")["A"].Schema
}

func v(path, rule, reason string) mutlog.Violation {
	return mutlog.Violation{Path: path, Rule: rule, Reason: reason}
}

// TestValidate: every violation is told, with its path and rule (rule 22).
func TestValidate(t *testing.T) {
	long := strings.Repeat("é", 1000)
	tests := []struct {
		schema, data string
		want         []mutlog.Violation
	}{
		{`{type: object}`, `{"a":1}`, nil},
		{`{required: [a, b], additionalProperties: false}`, `{"c":1}`, []mutlog.Violation{
			v("", "/additionalProperties", "additional properties 'c' not allowed"),
			v("", "/required", "missing properties 'a', 'b'")}},
		{`{properties: {"a/b": {items: {enum: [x, 1.0]}}, b: {$ref: "#/$defs/n"}, c: {type: integer}}, $defs: {n: {type: integer, minimum: 3}}}`,
			`{"a/b":["x",1,2],"b":2,"c":2.5}`, []mutlog.Violation{
				v("/a~1b/2", "/properties/a~1b/items/enum", "value must be one of 'x', 1.0"),
				v("/b", "/$defs/n/minimum", "must be at least 3"),
				v("/c", "/properties/c/type", "got number, want integer")}},
		{`{$id: "https://example.com/a.json", $schema: "https://json-schema.org/draft/2020-12/schema", properties: {a: {$ref: "a.json#/$defs/n"}}, $defs: {n: {type: string}}}`,
			`{"a":1}`, []mutlog.Violation{v("/a", "/$defs/n/type", "got number, want string")}},
		{`{properties: {a: {pattern: "^x"}}}`, `{"a":"` + long + `"}`, []mutlog.Violation{
			v("/a", "/properties/a/pattern", "'"+long[:298]+"…")}},
		{`{properties: {a: {format: email, contentEncoding: base64}}}`, `{"a":"!"}`, nil}, // formats say what is meant, and refuse nothing
		{`false`, `{}`, []mutlog.Violation{v("", "", "nothing is allowed here")}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, schemaOf(t, test.schema).Validate([]byte(test.data))); diff != "" {
			t.Errorf("%s of %s: -want +got:\n%s", test.data, test.schema, diff)
		}
	}
}

// TestBigNumbers: numbers are compared exactly, however many digits they have.
func TestBigNumbers(t *testing.T) {
	const max = "9007199254740993" // 2^53 + 1, which no float64 is
	s := schemaOf(t, `{properties: {n: {type: integer, maximum: `+max+`, minimum: -0.1, multipleOf: 1}, c: {const: 123456789012345678901234567890}, m: {multipleOf: 0.1}, big: {maximum: 1e1000}}}`)
	for data, want := range map[string][]mutlog.Violation{
		`{"n":9007199254740993}`:                  nil,
		`{"n":9007199254740993.000}`:              nil,
		`{"n":9.007199254740993e15}`:              nil,
		`{"n":9007199254740994}`:                  {v("/n", "/properties/n/maximum", "must be at most "+max)},
		`{"n":-1}`:                                {v("/n", "/properties/n/minimum", "must be at least -0.1")},
		`{"c":123456789012345678901234567890}`:    nil,
		`{"c":1.2345678901234567890123456789e29}`: nil,
		`{"c":123456789012345678901234567891}`:    {v("/c", "/properties/c/const", "value must be 123456789012345678901234567890")},
		`{"m":1234567890123456789012345.7}`:       nil,
		`{"m":1234567890123456789012345.75}`:      {v("/m", "/properties/m/multipleOf", "must be a multiple of 0.1")},
		`{"big":1e1000}`:                          nil,
	} {
		if diff := cmp.Diff(want, s.Validate([]byte(data))); diff != "" {
			t.Errorf("%s: -want +got:\n%s", data, diff)
		}
	}
}

// TestHugeNumbers: numbers that would take long to compare are refused instead.
func TestHugeNumbers(t *testing.T) {
	s := schemaOf(t, `{properties: {a: {uniqueItems: true, items: {type: integer, minimum: 0}}}}`)
	for _, number := range []string{"1e1001", "1E+999999999999999999999", "1e-1001", strings.Repeat("1", 10001), "0." + strings.Repeat("1", 10000) + "e1"} {
		found := s.Validate([]byte(`{"a":[0,` + number + `]}`))
		if len(found) != 1 || found[0].Path != "/a/1" || !strings.Contains(found[0].Reason, "cannot be compared") {
			t.Errorf("%.20s: got %v", number, found)
		}
	}
	worst := `{"a":[` + strings.Repeat("1e1000,", 9000) + `0]}` // as much as fits into 64 KiB
	if found := s.Validate([]byte(worst)); len(found) == 0 {
		t.Error("numbers that are equal count as unique")
	}
}

// FuzzBigNumbers: a bound judges every number as exact arithmetic does.
func FuzzBigNumbers(f *testing.F) {
	for _, pair := range [][2]string{{"9007199254740993", "9007199254740992"}, {"1e3", "1000.0"}, {"-0", "0"}, {"0.1", "0.10000000000000000000000001"}} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, bound, number string) {
		if !isNumber(bound) || !isNumber(number) || isHuge(bound) || isHuge(number) {
			return
		}
		schema, err := json.Marshal(map[string]json.Number{"maximum": json.Number(bound)})
		if err != nil {
			t.Skip(err)
		}
		kinds, err := Read(write(t, "r.json", fmt.Sprintf(`{"resources":{"A":{"schema":{"properties":{"n":%s}}}}}`, schema)))
		if err != nil {
			t.Fatal(err)
		}
		found := kinds["A"].Schema.Validate([]byte(`{"n":` + number + `}`))
		most, _ := new(big.Rat).SetString(bound)
		n, _ := new(big.Rat).SetString(number)
		if broken := n.Cmp(most) > 0; broken != (len(found) > 0) {
			t.Errorf("%s, at most %s: got %v", number, bound, found)
		}
	})
}

// TestTooManyWays: data that would be compared with a schema in countless ways is
// refused, soon; what is as large and as deep otherwise is not.
func TestTooManyWays(t *testing.T) {
	nest := func(n int, open, inside, end string) string {
		return strings.Repeat(open, n) + inside + strings.Repeat(end, n)
	}
	const kinds = `{$ref: "#/$defs/node", $defs: {node: {oneOf: [` +
		`{required: [type], properties: {type: {const: list}, content: {items: {$ref: "#/$defs/node"}}}},` +
		`{required: [type], properties: {type: {const: quote}, content: {items: {$ref: "#/$defs/node"}}}}]}}}`
	const tree = `{properties: {type: {type: string}, content: {items: {$ref: "#"}}}}`
	const choice = `{if: {properties: {type: {const: list}}}, then: {properties: {content: {items: {$ref: "#"}}}}, else: {properties: {content: {items: {$ref: "#"}}}}}`
	deep := nest(31, `{"type":"quote","content":[`, "", `]}`)
	for _, test := range []struct {
		name, schema, data string
		fits               bool
	}{
		{"a document", kinds, nest(6, `{"type":"quote","content":[`, `{"type":"list"}`, `]}`), true},
		{"a deep document", kinds, deep, false},
		{"a deep document that fits nothing", kinds, nest(31, `{"type":"list","content":[`, "1", `]}`), false},
		{"a tree", tree, deep, true},
		{"a choice by type", choice, deep, true},
		{"two branches", `{allOf: [{properties: {a: {$ref: "#"}}}, {properties: {a: {$ref: "#"}}}]}`, nest(60, `{"a":`, "1", "}"), false},
		{"under a not", `{not: {$ref: "#/$defs/x"}, $defs: {x: {type: object, anyOf: [{required: [a], properties: {a: {$ref: "#/$defs/x"}}}, {required: [a], properties: {a: {$ref: "#/$defs/x"}}}]}}}`,
			nest(60, `{"a":`, "1", "}"), false},
		{"under names and patterns", `{patternProperties: {"^a": {$ref: "#"}, "a$": {$ref: "#"}}}`, nest(60, `{"a":`, "1", "}"), false},
		{"by anchors", `{$dynamicAnchor: x, allOf: [{properties: {a: {$dynamicRef: "#x"}}}, {additionalProperties: {$dynamicRef: "#x"}}]}`, nest(60, `{"a":`, "1", "}"), false},
		{"a long list", `{properties: {a: {items: {anyOf: [{type: string}, {type: integer}]}}}}`, `{"a":[` + strings.Repeat("1,", 30000) + `1]}`, true},
	} {
		begun := time.Now()
		found := schemaOf(t, test.schema).Validate([]byte(test.data))
		if took := time.Since(begun); took > 20*time.Second { // with room for a loaded machine
			t.Errorf("%s: it took %v", test.name, took)
		}
		refused := len(found) == 1 && found[0].Path == "" && strings.Contains(found[0].Reason, "too many ways")
		if test.fits && found != nil || !test.fits && !refused {
			t.Errorf("%s: %.500v", test.name, found)
		}
	}
}

// TestSchemaOfMany: several compare with one schema at once, each by itself.
func TestSchemaOfMany(t *testing.T) {
	s := schemaOf(t, `{properties: {n: {type: integer}}, allOf: [{properties: {a: {$ref: "#"}}}, {properties: {a: {$ref: "#"}}}]}`)
	deep := []byte(strings.Repeat(`{"a":`, 60) + "1" + strings.Repeat("}", 60))
	var running sync.WaitGroup
	for range 8 {
		running.Go(func() {
			for range 20 {
				if found := s.Validate([]byte(`{"n":1}`)); found != nil {
					t.Errorf("what fits: %v", found)
				}
				if found := s.Validate([]byte(`{"n":"x"}`)); len(found) != 1 || found[0].Path != "/n" {
					t.Errorf("what does not: %v", found)
				}
			}
			if found := s.Validate(deep); len(found) != 1 || !strings.Contains(found[0].Reason, "too many ways") {
				t.Errorf("what takes too long: %v", found)
			}
		})
	}
	running.Wait()
}
