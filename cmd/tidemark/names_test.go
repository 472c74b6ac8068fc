package main_test

import (
	"fmt"
	"regexp"
	"strconv"
)

// names replaces what differs from run to run (times, ids that the server gives, addresses) by names in the order
// in which they appear: {t1}, {t2} … for times, {id1} … for ids, {addr1} … for addresses, {token1} … for the tokens
// that were made. The same value always gets the same name and another value another one, so two texts that are equal
// under their names agree on which of their values are equal.
type names struct {
	since   string            // the earliest time that is one of this run; an older one is a literal
	name    map[string]string // of each value seen
	value   map[string]string // of each name given
	counts  map[string]int    // how many names of each kind there are
	highest int64             // the latest time seen
}

func newNames(since string) *names {
	return &names{since: since, name: map[string]string{}, value: map[string]string{}, counts: map[string]int{}}
}

// varying finds, as one group each: Unix milliseconds of this age, ULIDs, and addresses on the loopback interface.
var varying = regexp.MustCompile(`\b(?:([1-9][0-9]{12})|([0-7][0-9A-HJKMNP-TV-Z]{25})|(127\.0\.0\.1:[0-9]+))\b`)

// hide puts names in the place of values.
func (n *names) hide(text string) string {
	return varying.ReplaceAllStringFunc(text, func(value string) string {
		if name, known := n.name[value]; known {
			return name
		}
		kind := "id"
		switch m := varying.FindStringSubmatch(value); {
		case m[1] != "":
			if kind = "t"; value < n.since { // both have 13 digits
				return value
			}
			ms, _ := strconv.ParseInt(value, 10, 64)
			n.highest = max(n.highest, ms)
		case m[3] != "":
			kind = "addr"
		}
		n.counts[kind]++
		return n.bind(fmt.Sprintf("{%s%d}", kind, n.counts[kind]), value)
	})
}

// named finds a name, with what is to be added to its value: {t1}, {id2}, {t1+1000}, {t3-1}.
var named = regexp.MustCompile(`\{((?:t|id|addr|token)[0-9]+)([+-][0-9]+)?\}`)

// show puts values in the place of names. A sum is a name of its own from then on, so that an answer that repeats
// its value shows it in the same words.
func (n *names) show(text string) (string, error) {
	var unknown error
	return named.ReplaceAllStringFunc(text, func(name string) string {
		if value, known := n.value[name]; known {
			return value
		}
		m := named.FindStringSubmatch(name)
		base, err := strconv.ParseInt(n.value["{"+m[1]+"}"], 10, 64)
		if err != nil {
			unknown = fmt.Errorf("nothing has the name %s yet", name)
			return name
		}
		offset, _ := strconv.ParseInt(m[2], 10, 64)
		value := strconv.FormatInt(base+offset, 10)
		if _, known := n.name[value]; !known {
			n.bind(name, value)
		}
		return value
	}), unknown
}

// token names a token that was made. No text may show it again, so that hide does not look for it.
func (n *names) token(value string) {
	n.counts["token"]++
	n.value[fmt.Sprintf("{token%d}", n.counts["token"])] = value
}

func (n *names) bind(name, value string) string {
	n.name[value], n.value[name] = name, value
	return name
}
