package transfer_test

// Logs that are not any more what was pushed to them: pruned, fenced and erased.

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"tidemark/mutlog"
	"tidemark/mutlog/mutlogtest"
)

// Users of worn logs. All of them have pushed two hours ago.
const (
	pruned mutlog.User = "pruned in part"            // and has pushed again since a restore
	idle   mutlog.User = "pruned, and nothing since" // but for its newest mutation
	back   mutlog.User = "erased, and back"
	erased mutlog.User = "erased"
)

// counted makes pushes count what is live.
var counted = mutlog.Access{Kinds: mutlog.Kinds{"NOTE": {Resources: 1000}}}

// pushTo pushes on the head of a log.
func pushTo(t testing.TB, log *mutlog.Log, user mutlog.User, p mutlog.Push) sent {
	t.Helper()
	head, err := log.Head(t.Context(), user)
	must(t, err)
	p.Base, p.Access = head, counted
	answer, err := log.Push(t.Context(), user, p)
	must(t, err)
	return sent{user, p, answer}
}

// begin pushes to the logs that are to be worn as if it were two hours ago: each
// has a resource that is always changed, and one that is deleted early.
func begin(t testing.TB, s mutlog.Store, writer *mutlogtest.Writer, batches int) (pushes []sent) {
	t.Helper()
	log := mutlog.New(s, mutlog.DefaultLimits)
	for i := range batches {
		log.Now = func() time.Time { return time.Now().Add(-2*time.Hour + time.Duration(i)*time.Minute) }
		for _, user := range []mutlog.User{pruned, idle, back, erased} {
			mutations := append(writer.Batch(8), mutlog.Mutation{Type: mutlog.Update, Resource: "NOTE", ResourceID: "changed", Data: fmt.Appendf(nil, `{"text":"%0200d"}`, i)})
			push := mutlog.Push{Client: "phone", Key: []string{"", fmt.Sprint("key-", i)}[i%2]}
			switch i {
			case 0:
				mutations = append(mutations, mutlog.Mutation{Type: mutlog.Create, Resource: "NOTE", ResourceID: "deleted", Data: []byte("{}")})
				mutations[len(mutations)-2].Type = mutlog.Create
			case 1:
				mutations = append(mutations, mutlog.Mutation{Type: mutlog.Delete, Resource: "NOTE", ResourceID: "deleted"})
			case 2: // of which pruning leaves all but the receipt
				push, mutations = mutlog.Push{}, []mutlog.Mutation{{Type: mutlog.Create, Resource: "NOTE", ResourceID: "kept", Data: []byte("{}")}}
			}
			push.Mutations = mutations
			pushes = append(pushes, pushTo(t, log, user, push))
		}
	}
	return pushes
}

// wear prunes and erases the logs that begin has begun, and pushes to some of
// them again.
func wear(t testing.TB, s mutlog.Store, writer *mutlogtest.Writer) (pushes []sent) {
	t.Helper()
	ctx, log := t.Context(), mutlog.New(s, mutlog.DefaultLimits)
	for _, user := range []mutlog.User{back, erased} {
		must(t, s.Erase(ctx, user, mutlog.Timestamp(time.Now().UnixMilli()), func(int) {}))
	}
	for range 3 {
		for _, user := range []mutlog.User{pruned, back} {
			pushes = append(pushes, pushTo(t, log, user, mutlog.Push{Mutations: writer.Batch(8)}))
		}
	}
	retention := mutlog.Retention{History: time.Hour, Tombstones: time.Hour, Receipts: time.Hour}
	for _, user := range []mutlog.User{pruned, idle} {
		done, err := retention.Prune(ctx, s, user, time.Now(), func(int) error { return nil })
		must(t, err)
		if done.Dropped == 0 {
			t.Fatalf("nothing of %s was pruned", user)
		}
	}
	return pushes
}

// wornOut fails the test unless the logs of a store are worn as they should be:
// otherwise copies of them would prove little.
func wornOut(t testing.TB, s mutlog.Store) {
	t.Helper()
	for _, user := range []mutlog.User{pruned, idle, back} {
		bounds := boundsOf(t, s, user)
		if len(bounds.Gaps) == 0 || user != back && (bounds.Pruned <= 0 || bounds.Horizon <= 0) {
			t.Fatalf("the bounds of %s are %+v", user, bounds)
		}
	}
}

func boundsOf(t testing.TB, s mutlog.Store, user mutlog.User) (bounds mutlog.Bounds) {
	t.Helper()
	must(t, s.View(t.Context(), user, func(tx mutlog.Reader) (err error) {
		bounds, err = tx.Bounds()
		return err
	}))
	return bounds
}

// batches reads a log at once.
func batches(t testing.TB, s mutlog.Store, user mutlog.User) (all []*mutlog.Batch) {
	t.Helper()
	must(t, s.View(t.Context(), user, func(tx mutlog.Reader) (err error) {
		all, err = tx.Batches(mutlog.Beginning, 1<<20)
		return err
	}))
	return all
}

func countBatches(t testing.TB, s mutlog.Store) (n int64) {
	t.Helper()
	for _, user := range users(t, s) {
		n += int64(len(batches(t, s, user)))
	}
	return n
}

// sameAnswers pulls from every cursor that a device can have, and from those
// around what the log has lost, of both stores.
func sameAnswers(t testing.TB, from, to mutlog.Store, user mutlog.User) {
	t.Helper()
	cursors := []mutlog.Timestamp{mutlog.Beginning, 1}
	around := func(at mutlog.Timestamp) { cursors = append(cursors, at-1, at, at+1) }
	for _, b := range batches(t, from, user) {
		around(b.Head())
		for _, e := range b.Entries {
			cursors = append(cursors, e.Timestamp)
		}
	}
	bounds := boundsOf(t, from, user)
	around(bounds.Pruned)
	around(bounds.Horizon)
	for _, gap := range bounds.Gaps {
		around(gap.After)
		around(gap.Until)
	}
	slices.Sort(cursors)
	for _, cursor := range slices.Compact(cursors) {
		for _, history := range []bool{false, true} {
			q := mutlog.Query{Since: cursor, History: history}
			if want, got := answer(t, from, user, q), answer(t, to, user, q); cursor >= mutlog.Beginning && want != got {
				t.Errorf("a pull of %s, %+v, is answered with\n%.500s\nand by the copy with\n%.500s", user, q, want, got)
			}
		}
	}
}

// answer is all that a pull tells.
func answer(t testing.TB, s mutlog.Store, user mutlog.User, q mutlog.Query) string {
	t.Helper()
	changes, err := mutlog.New(s, mutlog.DefaultLimits).Pull(t.Context(), user, q)
	if err != nil {
		return fmt.Sprint(err)
	}
	all, err := mutlogtest.Collect(t.Context(), changes)
	must(t, err)
	return fmt.Sprintf("%d %q", changes.Head, fmt.Sprint(all))
}

// repeated sends a push again, which is recognised, unless its receipt was pruned
// or erased: then it is refused, for the reason for which the source refuses it.
func repeated(t testing.TB, from, to mutlog.Store, p sent) {
	t.Helper()
	if p.user == erased && p.push.Base == mutlog.Beginning {
		return // it would be the first push of an empty log
	}
	bounds := boundsOf(t, from, p.user)
	forgotten := p.answer.Head <= bounds.Pruned
	for _, gap := range bounds.Gaps {
		forgotten = forgotten || gap.After < p.answer.Head && p.answer.Head <= gap.Until
	}
	again, err := mutlog.New(to, mutlog.DefaultLimits).Push(t.Context(), p.user, p.push)
	switch {
	case forgotten:
		_, want := mutlog.New(from, mutlog.DefaultLimits).Push(t.Context(), p.user, p.push)
		var refusal *mutlog.OutOfSyncError
		if !errors.As(want, &refusal) || fmt.Sprint(err) != fmt.Sprint(want) {
			t.Fatalf("a push of %s that was forgotten is answered %v, and by the copy %v", p.user, want, err)
		}
	case err != nil || !again.Replayed || again.Head != p.answer.Head || fmt.Sprint(again.Mutations) != fmt.Sprint(p.answer.Mutations):
		t.Fatalf("the repeat of a push of %s is answered %+v, %v", p.user, again, err)
	}
}

// refusesLost fails the test unless a cursor of what a log has lost is refused.
func refusesLost(t testing.TB, s mutlog.Store, user mutlog.User, cursor mutlog.Timestamp) {
	t.Helper()
	_, err := mutlog.New(s, mutlog.DefaultLimits).Pull(t.Context(), user, mutlog.Query{Since: cursor})
	var refusal *mutlog.OutOfSyncError
	if !errors.As(err, &refusal) || refusal.Reason != mutlog.CursorAhead {
		t.Errorf("%s with the cursor %d, which the log has lost, is told %v", user, cursor, err)
	}
}

// goesOn pushes to each log, behind all that was ever told of it.
func goesOn(t testing.TB, s mutlog.Store, pushes []sent) {
	t.Helper()
	log := mutlog.New(s, mutlog.DefaultLimits)
	latest := map[mutlog.User]mutlog.Timestamp{}
	for _, p := range pushes {
		latest[p.user] = max(latest[p.user], p.answer.Head)
	}
	for user, head := range latest {
		next := pushTo(t, log, user, mutlog.Push{Mutations: []mutlog.Mutation{{Type: mutlog.Create, Resource: "NOTE", Data: []byte("{}")}}})
		first := next.answer.Mutations[0].Timestamp
		for _, gap := range boundsOf(t, s, user).Gaps {
			head = max(head, gap.Until)
		}
		if first <= head {
			t.Errorf("the next mutation of %s has the timestamp %d, and %d was told", user, first, head)
		}
	}
}
