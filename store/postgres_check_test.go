package store

import (
	"slices"
	"strings"
	"testing"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
	"tidemark/store/postgrestest"
)

// Whatever is changed in the database behind the store's back is found, and what
// was altered is never given out as if it was not.
func TestCheckFindsWhatWasChanged(t *testing.T) {
	for damage, want := range map[string]string{
		`UPDATE tidemark.mutations SET data = '{"x":2}' WHERE at = 2`:                                                 "mutation 2: its checksum",
		`UPDATE tidemark.mutations SET resource_id = 'z' WHERE at = 3`:                                                "mutation 3: its checksum",
		`UPDATE tidemark.mutations SET state = NULL WHERE at = 3`:                                                     "mutation 3: its checksum",
		`DELETE FROM tidemark.mutations WHERE at = 2`:                                                                 "has 1 mutations less",
		`DELETE FROM tidemark.batches WHERE first = 2`:                                                                "batch 4 follows 3, and not",
		`DELETE FROM tidemark.batches WHERE first = 4`:                                                                "the newest batch ends with 3",
		`UPDATE tidemark.logs SET head = 3`:                                                                           "there is mutation 4, and the head is 3",
		`UPDATE tidemark.batches SET last = 9 WHERE first = 2; UPDATE tidemark.batches SET first = 0 WHERE first = 4`: "batch",
		`DELETE FROM tidemark.logs`:                                                                                   "and no log",
		`INSERT INTO tidemark.mutations SELECT 'bob', at, type, resource, resource_id, assigned, data, state, prev, born, crc FROM tidemark.mutations`: `user "bob": there is`,
	} {
		t.Run(strings.Fields(damage)[0]+" "+want, func(t *testing.T) {
			url := postgrestest.URL(t)
			s := opened(t, url)
			log := mutlog.New(s, mutlog.DefaultLimits)
			log.Now = new(mutlogtest.Clock).Now // from timestamp 1 on
			base := mutlog.Beginning
			for _, n := range []int{1, 2, 1} {
				var mutations []mutlog.Mutation
				for i := range n {
					mutations = append(mutations, note(mutlog.Create, string(rune('a'+i)), `{"x":1}`))
				}
				answer, err := log.Push(t.Context(), "alice", mutlog.Push{Base: base, Mutations: mutations})
				if err != nil {
					t.Fatal(err)
				}
				base = answer.Head
			}
			check := func() (problems []string) {
				if err := s.Check(t.Context(), func(p string) { problems = append(problems, p) }); err != nil {
					t.Fatal(err)
				}
				return problems
			}
			if problems := check(); len(problems) > 0 {
				t.Fatalf("a sound store: %q", problems)
			}
			execute(t, url, damage)
			if problems := check(); !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) }) {
				t.Errorf("%s: found %q", damage, problems)
			}
		})
	}
}
