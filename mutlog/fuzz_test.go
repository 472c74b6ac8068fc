package mutlog

// Fuzz targets beside those of the parsers' own tests. Their corpora in testdata/fuzz are from runs of some minutes each,
// and every `go test` plays them; `go test -fuzz=FuzzMergePatch ./mutlog` goes on from there.

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$`)

// FuzzParseNumber: what a number is, whether it is an integer, and its value are what exact arithmetic says.
func FuzzParseNumber(f *testing.F) {
	for _, s := range []string{"0", "-0", "1731636500303.0", "1.731636500303e12", "1.5", "01", "+1", "0x1", "1_000", "1e400", "1e-1", "10e-1", "9007199254740992", "-9223372036854775808", "0e99999", "1e0000000001"} {
		f.Add(s, int64(-1), int64(MaxTimestamp))
	}
	f.Fuzz(func(t *testing.T, s string, low, high int64) {
		if low = max(low, -1e17); low > high || high > 1e17 { // no bound of this package is wider
			low, high = -1, int64(MaxTimestamp)
		}
		got, err := ParseNumber(s, low, high)
		want, wantErr := slowNumber(s, low, high)
		if !errors.Is(err, wantErr) || err == nil && got != want {
			t.Fatalf("ParseNumber(%q, %d, %d) = %d, %v; want %d, %v", s, low, high, got, err, want, wantErr)
		}
	})
}

// slowNumber is ParseNumber by exact arithmetic.
func slowNumber(s string, low, high int64) (int64, error) {
	if len(s) > maxNumberLen || !jsonNumber.MatchString(s) {
		return 0, ErrNumberSyntax
	}
	mantissa, exponent, _ := strings.Cut(strings.ToLower(s), "e")
	if m, ok := new(big.Rat).SetString(mantissa); ok && m.Sign() == 0 {
		exponent = "" // whatever it is
	}
	if digits := strings.TrimLeft(strings.Trim(exponent, "+-"), "0"); len(digits) > 3 { // too much for exact arithmetic
		if strings.HasPrefix(exponent, "-") {
			return 0, ErrNumberFraction
		}
		return 0, ErrNumberRange
	}
	if exponent != "" {
		mantissa += "e" + exponent
	}
	r, ok := new(big.Rat).SetString(mantissa)
	switch {
	case !ok:
		return 0, errors.New("exact arithmetic does not read " + mantissa)
	case !r.IsInt():
		return 0, ErrNumberFraction
	case r.Cmp(new(big.Rat).SetInt64(low)) < 0, r.Cmp(new(big.Rat).SetInt64(high)) > 0:
		return 0, ErrNumberRange
	}
	return r.Num().Int64(), nil
}

// FuzzMergePatch: a patch gives what RFC 7396 says, valid JSON again, from inputs that stay what they are.
func FuzzMergePatch(f *testing.F) {
	for _, c := range [][2]string{ // among them the examples of RFC 7396 that are about objects
		{`{"a":"b"}`, `{"a":"c"}`}, {`{"a":"b"}`, `{"b":"c"}`}, {`{"a":"b"}`, `{"a":null}`}, {`{"a":"b","b":"c"}`, `{"a":null}`},
		{`{"a":["b"]}`, `{"a":"c"}`}, {`{"a":"c"}`, `{"a":["b"]}`}, {`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`}, {`{"e":null}`, `{"a":1}`}, {`{}`, `{"a":{"bb":{"ccc":null}}}`},
		{``, `{"a":{"b":null}}`}, {`{"a":1.0,"b":1e400}`, `{"\u0061":{}}`}, {`{ "a" : { } }`, `{"a":{"a":{"a":null}}}`}, {`{"":{"":1}}`, `{"":{"":null}}`},
	} {
		f.Add([]byte(c[0]), []byte(c[1]))
	}
	f.Fuzz(func(t *testing.T, target, patch []byte) {
		if len(target) == 0 {
			target = nil
		}
		if target != nil && !isObject(target) || !isObject(patch) {
			t.Skip()
		}
		targetWas, patchWas := bytes.Clone(target), bytes.Clone(patch)
		got := MergePatch(target, patch)
		if !bytes.Equal(target, targetWas) || !bytes.Equal(patch, patchWas) {
			t.Fatal("an input was changed")
		}
		if !isObject(got) {
			t.Fatalf("MergePatch(%s, %s) = %s, which is no strict JSON object", target, patch, got)
		}
		want := slowMerge(generic(t, target), generic(t, patch))
		wantText, _ := json.Marshal(want)
		gotText, _ := json.Marshal(generic(t, got))
		if !bytes.Equal(gotText, wantText) {
			t.Fatalf("MergePatch(%s, %s) = %s, want %s", target, patch, got, wantText)
		}
		// What it returns must not change with its inputs.
		for i := range target {
			target[i] = 'x'
		}
		for i := range patch {
			patch[i] = 'x'
		}
		if again, _ := json.Marshal(generic(t, got)); !bytes.Equal(again, wantText) {
			t.Fatal("the result shares bytes with an input")
		}
	})
}

func isObject(raw []byte) bool {
	raw = bytes.Clone(raw)
	return validJSON(raw) && raw[0] == '{' && nesting(raw) <= MaxNesting+1 // as DecodePush hands data on
}

// generic decodes JSON into maps; the text of numbers stays.
func generic(t *testing.T, raw []byte) any {
	if raw == nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}

// slowMerge is the pseudo code of RFC 7396, section 2.
func slowMerge(target, patch any) any {
	changes, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	object, ok := target.(map[string]any)
	if !ok {
		object = map[string]any{}
	}
	for name, value := range changes {
		if value == nil {
			delete(object, name)
		} else {
			object[name] = slowMerge(object[name], value)
		}
	}
	return object
}

// FuzzMutationJSON: a mutation that a push brought reads back from its own JSON.
func FuzzMutationJSON(f *testing.F) {
	f.Add([]byte(`{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":"a\"b\\é","data":{"a":"\u00e9"}}]}`))
	f.Add([]byte(`{"mutations":[{"type":"DELETE","resource":"N","resourceId":"😀<&>"},{"type":"CREATE","resource":"N","data":{ }}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		mutations, err := DecodePush(body, DefaultLimits, Access{})
		if err != nil {
			t.Skip()
		}
		for _, m := range mutations {
			text := m.AppendJSON(nil)
			var back Mutation
			if err := back.UnmarshalJSON(text); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
			if back.Type != m.Type || back.Ref() != m.Ref() || (m.Data == nil || !slices.Equal(back.Data, m.Data)) && back.Data != nil {
				t.Fatalf("%s reads back as %+v", text, back)
			}
		}
	})
}
