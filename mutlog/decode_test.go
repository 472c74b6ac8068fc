package mutlog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Rule 5: what is valid comes out byte for byte.
func TestDecodePush(t *testing.T) {
	data := "{ \"n\" : 1731636500303.10e5,\n\"s\":\"\\u00e9\\/\u202e\U0001f600\u0001\" }"
	data = strings.ReplaceAll(data, "\u0001", `\u0001`)
	body := ` {"mutations" : [
		{"type":"CREATE","resource":"NOTE","resourceId":"a","data":` + data + `},
		{"data":{},"resource":"NOTE","type":"CREATE"},
		{"type":"CREATE","resource":"NOTE","resourceId":null,"data":{}},
		{"type":"UPDATE","resource":"TAG_2","resourceId":"\u00e9\"","data":{"a":null}},
		{"type":"DELETE","resource":"NOTE","resourceId":"b"},
		{"type":"DELETE","resource":"NOTE","resourceId":"b","data":null},
		{"type":"DELETE","resource":"NOTE","resourceId":"b","data":{"kept":true},"timestamp":1731636500303},
		{"\u0074ype":"\u0044ELETE","resource":"N\u004fTE","resourceId":"b","timestamp":{"any":["thing"]}}
	] } `
	want := []Mutation{
		{Type: Create, Resource: "NOTE", ResourceID: "a", Data: []byte(data)},
		{Type: Create, Resource: "NOTE", Data: []byte(`{}`)},
		{Type: Create, Resource: "NOTE", Data: []byte(`{}`)},
		{Type: Update, Resource: "TAG_2", ResourceID: `é"`, Data: []byte(`{"a":null}`)},
		{Type: Delete, Resource: "NOTE", ResourceID: "b"},
		{Type: Delete, Resource: "NOTE", ResourceID: "b"},
		{Type: Delete, Resource: "NOTE", ResourceID: "b", Data: []byte(`{"kept":true}`)},
		{Type: Delete, Resource: "NOTE", ResourceID: "b"},
	}
	got, err := DecodePush([]byte(body), DefaultLimits, Access{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDecodePushEmpty(t *testing.T) {
	got, err := DecodePush([]byte(`{"mutations":[]}`), DefaultLimits, Access{})
	if err != nil || len(got) != 0 {
		t.Errorf("got %v, %v", got, err)
	}
}

// What DecodePush returned is not touched when the decoder is used again.
func TestDecodePushReuse(t *testing.T) {
	var kept [][]Mutation
	body := func(i int) []byte {
		return fmt.Appendf(nil, `{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"\u00e9%d","data":{"i":%d}}]}`, i, i)
	}
	for i := range 100 {
		mutations, err := DecodePush(body(i), DefaultLimits, Access{})
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, mutations)
		DecodePush([]byte(`{"mutations":[{"type":"x`), DefaultLimits, Access{})
	}
	for i, mutations := range kept {
		want := []Mutation{{Type: Create, Resource: "NOTE", ResourceID: fmt.Sprint("é", i), Data: fmt.Appendf(nil, `{"i":%d}`, i)}}
		if diff := cmp.Diff(want, mutations); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	}
}

// Rule 5: JSON that does not parse, holds a duplicate key, invalid
// UTF-8, a lone surrogate or trailing data is a 400, wherever it stands, and
// whatever rule the body breaks besides.
func TestDecodePushSyntax(t *testing.T) {
	mutation := func(member string) string {
		return `{"mutations":[{"type":"CREATE","resource":"NOTE",` + member + `}]}`
	}
	data := func(data string) string { return mutation(`"data":{` + data + `}`) }
	bodies := []string{
		"", " ", "\n", "{", "nul", "tru", "{]", `{"mutations"}`, `{"mutations":}`, `{"mutations":[}`, `{"mutations":[]`,
		`{mutations:[]}`, `{'mutations':[]}`, `{"mutations":[],}`, `{"mutations":[{},]}`, `{"mutations":[,]}`, `// no
		{"mutations":[]}`, `{"mutations":[/* no */]}`, "\ufeff" + `{"mutations":[]}`, "\x00",
		`{"mutations":[]}{"x":1}`, `{"mutations":[]} garbage`, `{"mutations":[]}]`, `{"mutations":[]},`, `{"mutations":[]}` + "\x00",
		`null null`, `[] x`, `1 2`, `"x" "`, `{"x":1} x`,
		`{"mutations":[],"mutations":[]}`, `{"mutations":[],"\u006dutations":[]}`, `{"x":1,"x":1,"mutations":[]}`,
		mutation(`"data":{},"data":{}`), mutation(`"data":{},"d\u0061ta":{}`), mutation(`"resource":"NOTE","data":{}`),
		mutation(`"x":1,"x":2`), mutation(`"timestamp":1,"timestamp":2,"data":{}`), mutation(`"timestamp":{"a":1,"a":2},"data":{}`),
		data(`"a":1,"a":2`), data(`"a":1,"\u0061":2`), data(`"a":{"b":[{"c":1,"c":2}]}`), data(`"":1,"":2`),
		data(`"a":"` + "\xff" + `"`), data(`"` + "\xc3" + `":1`), data(`"a":"` + "\xed\xa0\x80" + `"`), data(`"a":"` + "\xc0\x80" + `"`),
		data(`"a":"\ud800"`), data(`"a":"\udc00"`), data(`"a":"\ud800\u0041"`), data(`"\ud83d":1`), data(`"a":"\udc00\ud800"`),
		mutation(`"resourceId":"` + "\xff" + `","data":{}`), mutation(`"resourceId":"\ud800","data":{}`), mutation(`"\ud800":1,"data":{}`),
		data("\"a\":\"\n\""), data("\"a\":\"\x00\""), data("\"a\":\"\x1f\""), data(`"a":"\x41"`), data(`"a":"\u12"`), data(`"a":"\U0000"`),
		data(`"a":01`), data(`"a":+1`), data(`"a":.5`), data(`"a":1.`), data(`"a":0x10`), data(`"a":1_000`), data(`"a":1e`), data(`"a":-`),
		data(`"a":NaN`), data(`"a":Infinity`), data(`"a":undefined`), data(`"a":True`), data(`"a" 1`), data(`"a":1,`), data(`,`), data(`1:2`),
		data(`"a":1 "b":2`), "{\"mutations\":[]}\u00a0", "{\u00a0\"mutations\":[]}",
		`{"unknown":"\ud800","mutations":null}`, `{"mutations":[{"type":"nonsense"}],"x":`, `[{"a":1,"a":2}]`, `"` + "\xff" + `"`,
	}
	for _, body := range bodies {
		got, err := DecodePush([]byte(body), DefaultLimits, Access{})
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%q: got %v, %v, want a SyntaxError", body, got, err)
			continue
		}
		if syntax.Offset < 0 || syntax.Offset > len(body) || syntax.Reason == "" || strings.Contains(syntax.Error(), "jsontext") {
			t.Errorf("%q: got %#v: %v", body, syntax, syntax)
		}
	}
}

// A good body cut off at any byte is a 400, and where it ends is told.
func TestDecodePushTruncated(t *testing.T) {
	body := `{"mutations":[{"type":"UPDATE","resource":"NOTE","resourceId":"\u00e9a","data":{"a":[1.5e3,null,"x"]}}]}`
	for n := range len(body) {
		_, err := DecodePush([]byte(body[:n]), DefaultLimits, Access{})
		var syntax *SyntaxError
		if !errors.As(err, &syntax) {
			t.Fatalf("%q: %v", body[:n], err)
		}
	}
}

func TestSyntaxErrorOffset(t *testing.T) {
	tests := map[string]int{
		`{"mutations":[]} x`:               17,
		`{"mutations":[{"a":1,"a":2}]}`:    21,
		`{"mutations":[{"data":{"a":01}}]`: 28,
		`{"mutations":[]}{}`:               16,
		`{"mutations":[{"data":"` + "\xff": 23,
		`{"mutations":[`:                   14,
	}
	for body, want := range tests {
		_, err := DecodePush([]byte(body), DefaultLimits, Access{})
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || syntax.Offset != want {
			t.Errorf("%q: got %v, want byte %d", body, err, want)
		}
	}
}

// Rule 5: the messages word for word; all faults in their order.
func TestDecodePushFaults(t *testing.T) {
	one := func(mutation string) string { return `{"mutations":[` + mutation + `]}` }
	list := func(n int, mutation string) string {
		return `{"mutations":[` + strings.TrimSuffix(strings.Repeat(mutation+",", n), ",") + `]}`
	}
	none := func(message string) []Fault { return []Fault{{NoIndex, "mutations", message}} }
	first := func(member, message string) []Fault { return []Fault{{0, member, message}} }
	const valid = `{"type":"DELETE","resource":"NOTE","resourceId":"a"}`
	longData := `{"a":"` + strings.Repeat("x", DefaultLimits.DataBytes-8) + `"}` // as long as the limit
	tests := []struct {
		name, body string
		want       []Fault // nil: valid
	}{
		{"null", `null`, none("Invalid mutations")},
		{"an array", `[]`, none("Invalid mutations")},
		{"an array of mutations", `[` + valid + `]`, none("Invalid mutations")},
		{"a string", `"x"`, none("Invalid mutations")},
		{"a number", `1`, none("Invalid mutations")},
		{"a boolean", `true`, none("Invalid mutations")},
		{"no member", `{}`, none("Invalid mutations")},
		{"mutations null", `{"mutations":null}`, none("Invalid mutations")},
		{"mutations an object", `{"mutations":{}}`, none("Invalid mutations")},
		{"mutations a string", `{"mutations":"[]"}`, none("Invalid mutations")},
		{"an element that is no object", one(valid + `,1`), none("Invalid mutations")},
		{"an element that is null", one(`null`), none("Invalid mutations")},
		{"an element that is an array", one(`[]`), none("Invalid mutations")},
		{"a misspelt member of the body", `{"Mutations":[]}`, []Fault{{NoIndex, "mutations", "Invalid mutations"}, {NoIndex, "Mutations", `Unknown member: "Mutations"`}}},
		{"an unknown member of the body", `{"x":{"deep":[1]},"mutations":[` + valid + `]}`, []Fault{{NoIndex, "x", `Unknown member: "x"`}}},
		{"an unknown member behind the mutations", `{"mutations":[` + valid + `],"userId":"u"}`, []Fault{{NoIndex, "userId", `Unknown member: "userId"`}}},
		{"as many as allowed", list(100, valid), nil},
		{"too many", list(101, valid), none("Mutations must not exceed 100")},
		{"far too many", list(20_000, valid), none("Mutations must not exceed 100")},

		{"an empty object", one(`{}`), []Fault{{0, "resource", "Missing resource at mutation[0]"}, {0, "type", "Missing mutation type at mutation[0]"}}},
		{"resource missing", one(`{"type":"DELETE","resourceId":"a"}`), first("resource", "Missing resource at mutation[0]")},
		{"resource null", one(`{"type":"DELETE","resource":null,"resourceId":"a"}`), first("resource", "Missing resource at mutation[0]")},
		{"resource in lower case", one(`{"type":"DELETE","resource":"note","resourceId":"a"}`), first("resource", `Invalid resource: "note" at mutation[0]`)},
		{"resource empty", one(`{"type":"DELETE","resource":"","resourceId":"a"}`), first("resource", `Invalid resource: "" at mutation[0]`)},
		{"resource a number", one(`{"type":"DELETE","resource":1,"resourceId":"a"}`), first("resource", `Invalid resource: "1" at mutation[0]`)},
		{"resource a boolean", one(`{"type":"DELETE","resource":true,"resourceId":"a"}`), first("resource", `Invalid resource: "true" at mutation[0]`)},
		{"resource of 65 bytes", one(`{"type":"DELETE","resource":"` + strings.Repeat("A", 65) + `","resourceId":"a"}`),
			first("resource", `Invalid resource: "`+strings.Repeat("A", 64)+`…" at mutation[0]`)},
		{"resource with NUL", one(`{"type":"DELETE","resource":"A\u0000","resourceId":"a"}`), first("resource", "Invalid resource: \"A\x00\" at mutation[0]")},
		{"type missing", one(`{"resource":"NOTE","resourceId":"a"}`), first("type", "Missing mutation type at mutation[0]")},
		{"type null", one(`{"type":null,"resource":"NOTE","resourceId":"a"}`), first("type", "Missing mutation type at mutation[0]")},
		{"type in lower case", one(`{"type":"create","resource":"NOTE","data":{}}`), first("type", `Invalid mutation type: "create" at mutation[0]`)},
		{"type of another protocol", one(`{"type":"UPSERT","resource":"NOTE","data":{}}`), first("type", `Invalid mutation type: "UPSERT" at mutation[0]`)},
		{"type a number", one(`{"type":1,"resource":"NOTE","data":{}}`), first("type", `Invalid mutation type: "1" at mutation[0]`)},
		{"resourceId missing in UPDATE", one(`{"type":"UPDATE","resource":"NOTE","data":{}}`), first("resourceId", "Missing resourceId at mutation[0]")},
		{"resourceId missing in DELETE", one(`{"type":"DELETE","resource":"NOTE"}`), first("resourceId", "Missing resourceId at mutation[0]")},
		{"resourceId null in DELETE", one(`{"type":"DELETE","resource":"NOTE","resourceId":null}`), first("resourceId", "Missing resourceId at mutation[0]")},
		{"resourceId empty", one(`{"type":"CREATE","resource":"NOTE","resourceId":"","data":{}}`), first("resourceId", "Invalid resourceId at mutation[0]")},
		{"resourceId a number", one(`{"type":"DELETE","resource":"NOTE","resourceId":7}`), first("resourceId", "Invalid resourceId at mutation[0]")},
		{"resourceId of 128 bytes", one(`{"type":"DELETE","resource":"NOTE","resourceId":"` + strings.Repeat("é", 64) + `"}`), nil},
		{"resourceId of 129 bytes", one(`{"type":"DELETE","resource":"NOTE","resourceId":"a` + strings.Repeat("é", 64) + `"}`), first("resourceId", "Invalid resourceId at mutation[0]")},
		{"resourceId with a control character", one(`{"type":"DELETE","resource":"NOTE","resourceId":"a\n"}`), first("resourceId", "Invalid resourceId at mutation[0]")},
		{"resourceId with NUL", one(`{"type":"DELETE","resource":"NOTE","resourceId":"\u0000"}`), first("resourceId", "Invalid resourceId at mutation[0]")},
		{"data missing in CREATE", one(`{"type":"CREATE","resource":"NOTE"}`), first("data", "Missing data at mutation[0]")},
		{"data missing in UPDATE", one(`{"type":"UPDATE","resource":"NOTE","resourceId":"a"}`), first("data", "Missing data at mutation[0]")},
		{"data null in UPDATE", one(`{"type":"UPDATE","resource":"NOTE","resourceId":"a","data":null}`), first("data", "Missing data at mutation[0]")},
		{"data an array", one(`{"type":"CREATE","resource":"NOTE","data":[]}`), first("data", "Invalid data at mutation[0]")},
		{"data a string", one(`{"type":"CREATE","resource":"NOTE","data":"{}"}`), first("data", "Invalid data at mutation[0]")},
		{"data a boolean in DELETE", one(`{"type":"DELETE","resource":"NOTE","resourceId":"a","data":false}`), first("data", "Invalid data at mutation[0]")},
		{"data as long as allowed", one(`{"type":"CREATE","resource":"NOTE","data":` + longData + `}`), nil},
		{"data a byte longer", one(`{"type":"CREATE","resource":"NOTE","data":` + strings.Replace(longData, ":", ": ", 1) + `}`),
			first("data", "Data must not exceed 65536 bytes at mutation[0]")},
		{"data of DELETE too long", one(`{"type":"DELETE","resource":"NOTE","resourceId":"a","data":` + strings.Replace(longData, ":", ": ", 1) + `}`),
			first("data", "Data must not exceed 65536 bytes at mutation[0]")},
		{"an unknown member", one(`{"type":"DELETE","resource":"NOTE","resourceId":"a","userId":{"a":1}}`), first("userId", `Unknown member: "userId" at mutation[0]`)},
		{"a misspelt member", one(`{"type":"CREATE","resource":"NOTE","data":{},"resourceID":"a"}`), first("resourceID", `Unknown member: "resourceID" at mutation[0]`)},
		{"an empty member", one(`{"type":"DELETE","resource":"NOTE","resourceId":"a","":1}`), first("", `Unknown member: "" at mutation[0]`)},

		{"several, in the order of the mutations and of the messages",
			`{"z":1,"mutations":[` + valid + `,{"data":[],"y":1,"x":2,"resourceId":"","type":"PUT","resource":"n"},{"type":"UPDATE"},` + valid + `]}`,
			[]Fault{
				{NoIndex, "z", `Unknown member: "z"`},
				{1, "resource", `Invalid resource: "n" at mutation[1]`},
				{1, "type", `Invalid mutation type: "PUT" at mutation[1]`},
				{1, "resourceId", "Invalid resourceId at mutation[1]"},
				{1, "data", "Invalid data at mutation[1]"},
				{1, "y", `Unknown member: "y" at mutation[1]`},
				{1, "x", `Unknown member: "x" at mutation[1]`},
				{2, "resource", "Missing resource at mutation[2]"},
				{2, "resourceId", "Missing resourceId at mutation[2]"},
				{2, "data", "Missing data at mutation[2]"},
			}},
		{"the last of 100", `{"mutations":[` + strings.Repeat(valid+",", 99) + `{"type":"DELETE","resource":"NOTE"}]}`,
			[]Fault{{99, "resourceId", "Missing resourceId at mutation[99]"}}},
		{"too many, one of them invalid", `{"mutations":[{"type":"DELETE","resource":"NOTE"},` + strings.Repeat(valid+",", 99) + valid + `]}`,
			[]Fault{{NoIndex, "mutations", "Mutations must not exceed 100"}, {0, "resourceId", "Missing resourceId at mutation[0]"}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := DecodePush([]byte(test.body), DefaultLimits, Access{})
			if test.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var invalid *ValidationError
			if !errors.As(err, &invalid) {
				t.Fatalf("got %v, %v, want a ValidationError", got, err)
			}
			if diff := cmp.Diff(test.want, invalid.Faults); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if err.Error() != test.want[0].Message {
				t.Errorf("the message is %q", err)
			}
		})
	}
}

// The limits are those of the configuration, and the messages name them.
func TestDecodePushLimits(t *testing.T) {
	limits := Limits{Mutations: 1, DataBytes: 4}
	body := `{"mutations":[{"type":"CREATE","resource":"A","data":{"":1}},{"type":"CREATE","resource":"A","data":{}}]}`
	_, err := DecodePush([]byte(body), limits, Access{})
	var invalid *ValidationError
	if !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	want := []Fault{{NoIndex, "mutations", "Mutations must not exceed 1"}, {0, "data", "Data must not exceed 4 bytes at mutation[0]"}}
	if diff := cmp.Diff(want, invalid.Faults); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Rule 5: a NUL in a string or name of the data is not allowed; what only
// looks like one is.
func TestDecodePushNUL(t *testing.T) {
	tests := map[string]bool{
		`{"a":"\u0000"}`:                  true,
		`{"a":"x\u0000y"}`:                true,
		`{"\u0000":1}`:                    true,
		`{"a":{"b":[["\u0000"]]}}`:        true,
		`{"a":"\\\u0000"}`:                true,
		`{"a":"\\u0000"}`:                 false,
		`{"a":"\\\\u0000"}`:               false,
		`{"a":"\\u0000\u0000"}`:           true,
		`{"a":"\u00000"}`:                 true,
		`{"a":"\u0001u0000"}`:             false,
		`{"a":"u0000","b":"\\","c":"\n"}`: false,
	}
	for data, want := range tests {
		_, err := DecodePush([]byte(`{"mutations":[{"type":"CREATE","resource":"NOTE","data":`+data+`}]}`), DefaultLimits, Access{})
		if got := err != nil; got != want || got && err.Error() != "Invalid data at mutation[0]" {
			t.Errorf("%s: %v", data, err)
		}
	}
}

// Rule 5: 64 levels, the data itself included; brackets in strings are none.
func TestDecodePushNesting(t *testing.T) {
	nested := func(open, shut string, n int) string {
		return `{"a":` + strings.Repeat(open, n-1) + `1` + strings.Repeat(shut, n-1) + `}`
	}
	brackets := `"` + strings.Repeat(`[{\"`, 100) + `"`
	tests := []struct {
		name, data, want string
	}{
		{"64 arrays", nested("[", "]", 64), ""},
		{"65 arrays", nested("[", "]", 65), "Invalid data at mutation[0]"},
		{"64 objects", nested(`{"a":`, "}", 64), ""},
		{"65 objects", nested(`{"a":`, "}", 65), "Invalid data at mutation[0]"},
		{"64 levels and brackets in strings", nested(`{"[\"[":`, "}", 63) + " ", ""},
		{"a string of brackets", `{"a":` + brackets + `}`, ""},
		{"wide, not deep", `{"a":[` + strings.Repeat("[],", 1000) + `{}]}`, ""},
		{"10,000 levels in all", nested("[", "]", 10_000-3), "Invalid data at mutation[0]"},
		{"more than 10,000 levels", nested("[", "]", 10_001), "Invalid mutations: nested more than 64 levels"},
		{"20,000 levels", nested("[", "]", 20_000), "Invalid mutations: nested more than 64 levels"},
	}
	for _, test := range tests {
		body := `{"mutations":[{"type":"CREATE","resource":"NOTE","data":` + test.data + `}]}`
		_, err := DecodePush([]byte(body), DefaultLimits, Access{})
		var invalid *ValidationError
		if test.want == "" && err != nil || test.want != "" && (!errors.As(err, &invalid) || err.Error() != test.want) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

// A small hostile body does not become a huge answer.
func TestDecodePushBoundsFaults(t *testing.T) {
	var members strings.Builder
	for i := range 50_000 {
		fmt.Fprintf(&members, `"%d":0,`, i)
	}
	bodies := []string{
		`{` + members.String() + `"mutations":[]}`,
		`{"mutations":[{` + members.String() + `"type":1}]}`,
		`{"mutations":[{"type":"` + strings.Repeat("x", 1_000_000) + `"}]}`,
		`{"mutations":[{"` + strings.Repeat("é", 500_000) + `":1}]}`,
		`{"` + strings.Repeat("é", 500_000) + `":1}`,
		`{"mutations":[{"type":[` + strings.Repeat("1,", 500_000) + `1]}]}`,
	}
	for _, body := range bodies {
		_, err := DecodePush([]byte(body), DefaultLimits, Access{})
		var invalid *ValidationError
		if !errors.As(err, &invalid) {
			t.Fatalf("%.40s…: %v", body, err)
		}
		size := 0
		for _, f := range invalid.Faults {
			size += len(f.Message) + len(f.Member)
		}
		if len(invalid.Faults) > maxFaults+1 || size > 200_000 {
			t.Errorf("%.40s…: %d faults of %d bytes", body, len(invalid.Faults), size)
		}
	}
}

// FuzzDecodePush: what DecodePush takes, the standard library reads the same.
func FuzzDecodePush(f *testing.F) {
	for _, body := range []string{
		`{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a","data":{"a":[1,{"b":null}]}}]}`,
		`{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"\u00e9"}]} `,
		`{"mutations":[{"data":{"a":"\\u0000"}}]}`, `{"mutations":[]}x`, `[`, `{"a":1,"\u0061":1}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		original := slices.Clone(body)
		mutations, err := DecodePush(body, DefaultLimits, Access{})
		if !bytes.Equal(body, original) {
			t.Fatal("the body was changed")
		}
		var syntax *SyntaxError
		var invalid *ValidationError
		switch {
		case errors.As(err, &syntax):
		case !json.Valid(body):
			if !errors.As(err, &invalid) || nesting(body) < maxJSONDepth {
				t.Fatalf("took what is no JSON: %v", err)
			}
		case err != nil:
			if !errors.As(err, &invalid) || len(invalid.Faults) == 0 {
				t.Fatalf("%#v", err)
			}
		default:
			var want struct {
				Mutations []struct {
					Type       Type
					Resource   string
					ResourceID string
					Data       json.RawMessage
				}
			}
			if err := json.Unmarshal(body, &want); err != nil || len(want.Mutations) != len(mutations) {
				t.Fatal(len(mutations), err)
			}
			for i, m := range mutations {
				w := want.Mutations[i]
				if string(w.Data) == "null" {
					w.Data = nil
				}
				if m.Type != w.Type || m.Resource != w.Resource || m.ResourceID != w.ResourceID || !bytes.Equal(m.Data, w.Data) {
					t.Fatalf("%d: got %+v, want %+v", i, m, w)
				}
			}
		}
	})
}
