package store

import (
	"fmt"
	"testing"

	"tidemark/mutlog"
)

// What is counted is what there is, folded and recent, in steps or at once, and
// nothing of others.
func TestCountBatches(t *testing.T) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			s := b.opener(t).open()
			for i := range 23 {
				push(t, s, "alice", note(mutlog.Create, fmt.Sprint(i), `{}`), note(mutlog.Create, "b", `{}`))
				push(t, s, mutlog.User(fmt.Sprint("user-", i)), note(mutlog.Create, "a", `{}`))
			}
			for user, want := range map[mutlog.User]int64{"alice": 23, "user-7": 1, "nobody": 0} {
				counts := map[string]int64{}
				switch s := s.(type) {
				case *Bolt:
					for _, step := range []int64{1, 2, 23, 24, countStep} {
						counts[fmt.Sprint("in steps of ", step)] = must[int64](t)(s.countBatches(t.Context(), user, step))
					}
				case *Postgres:
					counts["at once"] = must[int64](t)(s.CountBatches(t.Context(), user))
					same(t, "batches of all", int64(46), must[int64](t)(s.CountAllBatches(t.Context())))
				}
				for how, got := range counts {
					same(t, fmt.Sprint(user, " ", how), want, got)
				}
			}
		})
	}
}
