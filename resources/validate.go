package resources

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"tidemark/mutlog"
)

// schema is a compiled JSON Schema, in as many copies as are in use.
type schema struct {
	compile func() *counted
	idle    chan *counted
}

// Validate implements mutlog.Schema.
func (s *schema) Validate(data []byte) []mutlog.Violation {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data)) // numbers stay text
	if err != nil {
		return []mutlog.Violation{{Rule: "/", Reason: "it is not JSON"}}
	}
	if places := hugeNumbers(value); len(places) > 0 {
		return tooHuge(places)
	}
	c := s.take()
	defer s.put(c)
	switch err := c.compare(value, len(data)); {
	case err == errTooMuch:
		return []mutlog.Violation{{Rule: "/", Reason: "there are too many ways through the schema to compare this with all of them"}}
	case err != nil:
		return violations(err.(*jsonschema.ValidationError)) // the only type that is left
	}
	return nil
}

const (
	// maxExponent and maxDigits bound the numbers that are compared with a schema,
	// which is exact and so takes the time and the memory that they name: 1e999999
	// has nine characters and a million digits.
	maxExponent = 1000
	maxDigits   = 10000

	// maxReason bounds the text of a violation, in bytes, which may quote data.
	maxReason = 300
)

// isHuge tells whether the text of a number is over the bounds.
func isHuge(number string) bool {
	i := strings.IndexAny(number, "eE")
	if i < 0 {
		return len(number) > maxDigits
	}
	exponent, err := strconv.Atoi(number[i+1:])
	return err != nil || exponent > maxExponent || exponent < -maxExponent || i > maxDigits
}

// hugeNumbers returns the places of the numbers in value that are over the
// bounds. There are hardly ever any, so that it spares itself the others'.
func hugeNumbers(value any) (places []string) {
	under := func(name string, value any) {
		for _, place := range hugeNumbers(value) {
			places = append(places, member("", name)+place)
		}
	}
	switch v := value.(type) {
	case json.Number:
		if isHuge(string(v)) {
			return []string{""}
		}
	case []any:
		for i, element := range v {
			switch element.(type) {
			case json.Number, []any, map[string]any:
				under(strconv.Itoa(i), element)
			}
		}
	case map[string]any:
		for name, value := range v {
			under(name, value)
		}
	}
	return places
}

func tooHuge(places []string) []mutlog.Violation {
	reason := fmt.Sprintf("a number with an exponent over %d or more than %d digits cannot be compared", maxExponent, maxDigits)
	var found []mutlog.Violation
	for _, place := range places {
		found = append(found, mutlog.Violation{Path: place, Rule: "/", Reason: reason})
	}
	return sorted(found)
}

// violations returns every rule that was broken, sorted by the place in the data.
func violations(e *jsonschema.ValidationError) []mutlog.Violation {
	return sorted(leaves(nil, e))
}

func sorted(found []mutlog.Violation) []mutlog.Violation {
	slices.SortStableFunc(found, func(a, b mutlog.Violation) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Rule, b.Rule))
	})
	return found
}

// leaves appends the errors that have no causes: those are what is wrong, the
// others only say where it was met.
func leaves(found []mutlog.Violation, e *jsonschema.ValidationError) []mutlog.Violation {
	for _, cause := range e.Causes {
		found = leaves(found, cause)
	}
	if len(e.Causes) > 0 {
		return found
	}
	return append(found, mutlog.Violation{Path: pointerOf(e.InstanceLocation), Rule: ruleOf(e), Reason: clip(reasonOf(e))})
}

// ruleOf returns the place of a rule in its schema.
func ruleOf(e *jsonschema.ValidationError) string {
	_, at, _ := strings.Cut(e.SchemaURL, "#")
	if plain, err := url.PathUnescape(at); err == nil {
		at = plain
	}
	return at + pointerOf(e.ErrorKind.KeywordPath())
}

func pointerOf(names []string) (pointer string) {
	for _, name := range names {
		pointer = member(pointer, name)
	}
	return pointer
}

// reasonOf says in words what is wrong. The library would round numbers.
func reasonOf(e *jsonschema.ValidationError) string {
	switch k := e.ErrorKind.(type) {
	case *kind.Minimum:
		return "must be at least " + exact(k.Want)
	case *kind.Maximum:
		return "must be at most " + exact(k.Want)
	case *kind.ExclusiveMinimum:
		return "must be more than " + exact(k.Want)
	case *kind.ExclusiveMaximum:
		return "must be less than " + exact(k.Want)
	case *kind.MultipleOf:
		return "must be a multiple of " + exact(k.Want)
	case *kind.FalseSchema:
		return "nothing is allowed here"
	}
	return e.BasicOutput().Error.String()
}

// exact returns the decimal text of a number that came from one.
func exact(n *big.Rat) string {
	digits, _ := n.FloatPrec()
	return n.FloatString(digits)
}

// clip shortens what may quote data.
func clip(s string) string {
	if len(s) <= maxReason {
		return s
	}
	s = s[:maxReason]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "…"
}
