package history

import (
	"strings"
	"testing"
	"time"
)

// TestLinear holds the checker itself against small histories.
func TestLinear(t *testing.T) {
	note := func(number int, id string) *content {
		return &content{number: number, mutations: []mutation{{kind: "CREATE", resource: "NOTE", id: id, data: "{}"}}}
	}
	one, two := note(1, "a"), note(2, "b")
	push := func(c *content, base, call, end int64, a *answer) *operation {
		return &operation{push: &pushInput{content: c, base: base}, call: call, end: end, answer: a}
	}
	applied := func(c *content, at int64) *answer {
		m := c.mutations[0]
		m.at = at
		return &answer{status: 200, head: at, mutations: []mutation{m}}
	}
	replayed := func(c *content, at int64) *answer {
		a := applied(c, at)
		a.replayed = true
		return a
	}
	refused := func(head int64) *answer {
		return &answer{status: 409, reason: "stale_cursor", head: head, conflicts: []conflict{}}
	}
	head := func(call, end, head int64) *operation {
		return &operation{pull: &pullInput{since: 0, metadataOnly: true}, call: call, end: end, answer: &answer{status: 200, head: head}}
	}
	log := func(since, call, end int64, answers ...*answer) *operation {
		a := &answer{status: 200, head: beginning, mutations: []mutation{}}
		for _, b := range answers {
			a.head, a.mutations = b.head, append(a.mutations, b.mutations...)
		}
		return &operation{pull: &pullInput{since: since, history: true}, call: call, end: end, answer: a}
	}
	ended := map[*content]settled{one: {previous: -1, first: 10, n: 1, assigned: []string{""}}}

	tests := []struct {
		name string
		ok   bool
		ops  []*operation
	}{
		{"one wins", true, []*operation{push(one, -1, 0, 9, applied(one, 10)), push(two, -1, 0, 9, refused(10)), log(-1, 20, 30, applied(one, 10))}},
		{"both win", false, []*operation{push(one, -1, 0, 9, applied(one, 10)), push(two, -1, 0, 9, applied(two, 11))}},
		{"one after the other", true, []*operation{push(one, -1, 0, 5, applied(one, 10)), push(two, 10, 6, 9, applied(two, 11))}},
		{"a timestamp twice", false, []*operation{push(one, -1, 0, 5, applied(one, 10)), push(two, 10, 6, 9, applied(two, 10))}},
		{"refused for nothing", false, []*operation{push(one, -1, 0, 5, applied(one, 10)), push(two, 10, 6, 9, refused(10))}},
		{"a stale head", false, []*operation{push(one, -1, 0, 5, applied(one, 10)), head(6, 7, beginning)}},
		{"a head of the same time", true, []*operation{push(one, -1, 0, 5, applied(one, 10)), head(4, 7, beginning)}},
		{"a replay", true, []*operation{push(one, -1, 0, 5, applied(one, 10)), push(one, -1, 6, 7, replayed(one, 10))}},
		{"a replay of nothing", false, []*operation{push(one, -1, 0, 5, replayed(one, 10))}},
		{"applied twice", false, []*operation{push(one, -1, 0, 5, applied(one, 10)), push(one, -1, 6, 7, applied(one, 11))}},
		{"lost, and applied", true, []*operation{push(one, -1, 0, 5, nil), log(-1, 6, 7), log(-1, 8, 9, applied(one, 10))}},
		{"lost, applied, and gone", false, []*operation{push(one, -1, 0, 5, nil), head(6, 7, 10), head(8, 9, beginning)}},
		{"lost, and applied before it was sent", false, []*operation{push(one, -1, 5, 6, nil), head(0, 4, 10)}},
		{"lost, and replayed", true, []*operation{push(one, -1, 0, 5, nil), push(one, -1, 6, 7, replayed(one, 10)), head(8, 9, 10)}},
		{"a pull that lacks a batch", false, []*operation{push(one, -1, 0, 3, applied(one, 10)), push(two, 10, 4, 5, applied(two, 11)), log(-1, 6, 7, applied(two, 11))}},
	}
	for _, test := range tests {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			if err := checkLinear(test.ops, ended, time.Minute); (err == nil) != test.ok {
				t.Errorf("allowed: %v, want %v: %v", err == nil, test.ok, err)
			}
		})
	}
}

// TestMergePatch holds the model to the examples of RFC 7396, appendix A, that
// are about objects.
func TestMergePatch(t *testing.T) {
	for _, test := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`},
		{`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`},
		{`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{``, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
	} {
		if got := mergePatch(test[0], test[1]); got != test[2] {
			t.Errorf("%s on %s gives %s, want %s", test[1], test[0], got, test[2])
		}
	}
}
