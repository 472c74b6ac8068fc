package server

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"tidemark/mutlog"
)

// query reads parameters strictly. The first that is missing, repeated or
// cannot be parsed is kept in err; those that parse and are not allowed are
// collected in faults, because every 400 comes before any 422. Between the two
// comes hidden, that a name is out of the scopes of whoever asks.
type query struct {
	values url.Values
	err    error
	hidden error
	faults []mutlog.Fault
}

func newQuery(r *http.Request) *query {
	q := &query{}
	raw := r.URL.RawQuery
	if strings.Count(raw, "&") >= maxParameters {
		q.err = &requestError{message: fmt.Sprintf("The query must not have more than %d parameters", maxParameters)}
		return q
	}
	if q.values, q.err = url.ParseQuery(raw); q.err != nil {
		q.err = &requestError{message: "The query does not parse: a stray % or ;"}
	}
	return q
}

// text returns the value of a parameter that may appear once, or "".
func (q *query) text(name string) string {
	values, present := q.values[name]
	switch {
	case !present:
		return ""
	case len(values) > 1:
		q.refuse(name, "is repeated")
	case values[0] == "":
		q.refuse(name, "is empty")
	}
	return values[0]
}

func (q *query) has(name string) bool { _, present := q.values[name]; return present }

// refuse notes that a parameter breaks the grammar.
func (q *query) refuse(name, what string) {
	if q.err == nil {
		q.err = &requestError{message: fmt.Sprintf("The parameter %s %s", name, what), member: "parameter", name: name}
	}
}

// fault notes that a parameter parses and is not allowed.
func (q *query) fault(name, what string) {
	q.faults = append(q.faults, mutlog.Fault{Index: mutlog.NoIndex, Member: name, Message: "The parameter " + name + " " + what})
}

// number reads a decimal number from low to high; absent gives otherwise.
func (q *query) number(name string, low, high, otherwise int64) int64 {
	s := q.text(name)
	if s == "" || q.err != nil {
		return otherwise
	}
	n, err := mutlog.ParseNumber(s, low, high)
	switch {
	case errors.Is(err, mutlog.ErrNumberSyntax):
		q.refuse(name, err.Error())
	case errors.Is(err, mutlog.ErrNumberRange):
		q.fault(name, fmt.Sprintf("must be from %d to %d", low, high))
	case err != nil:
		q.fault(name, err.Error())
	}
	return n
}

// cursor reads a cursor; absent gives Beginning.
func (q *query) cursor(name string) mutlog.Timestamp {
	return mutlog.Timestamp(q.number(name, int64(mutlog.Beginning), int64(mutlog.MaxTimestamp), int64(mutlog.Beginning)))
}

// required reads a cursor that must be there.
func (q *query) required(name string) mutlog.Timestamp {
	if !q.has(name) {
		q.refuse(name, "is required")
	}
	return q.cursor(name)
}

// flag reads true or false; absent gives false.
func (q *query) flag(name string) bool {
	switch q.text(name) {
	case "true":
		return true
	case "", "false":
	default:
		q.refuse(name, "must be true or false")
	}
	return false
}

// resources reads a list of names of kinds of resources.
func (q *query) resources(name string, access mutlog.Access) []string {
	s := q.text(name)
	if s == "" {
		return nil
	}
	names := strings.Split(s, ",")
	for _, n := range names {
		q.hidden = cmp.Or(q.hidden, access.Hides(n))
		if !access.Kinds.Allow(n) {
			q.fault(name, fmt.Sprintf("has an item that is no resource: %q", clip(n)))
		}
	}
	return names
}

// apart refuses two parameters that contradict each other.
func (q *query) apart(a, b string) {
	for _, name := range []string{a, b} {
		q.faults = append(q.faults, mutlog.Fault{Index: mutlog.NoIndex, Member: name,
			Message: fmt.Sprintf("The parameters %s and %s contradict each other", a, b)})
	}
}

// check returns the refusal of the query, if there is one.
func (q *query) check() error {
	if err := cmp.Or(q.err, q.hidden); err != nil {
		return err
	}
	if len(q.faults) > 0 {
		return &mutlog.ValidationError{Faults: q.faults}
	}
	return nil
}

// header returns the value of a header that may appear once, of 1 to most bytes
// that valid accepts; "" if it is absent.
func header(r *http.Request, name string, most int, valid func(string) bool) (string, error) {
	values := r.Header[http.CanonicalHeaderKey(name)]
	if len(values) == 0 {
		return "", nil
	}
	what := ""
	switch v := values[0]; {
	case len(values) > 1:
		what = "is repeated"
	case v == "":
		what = "is empty"
	case len(v) > most:
		what = fmt.Sprintf("must not exceed %d bytes", most)
	case !valid(v):
		what = "has characters that are not allowed"
	default:
		return v, nil
	}
	return "", &requestError{message: "The header " + name + " " + what, member: "header", name: name}
}

// clip shortens what a message quotes from a request.
func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
