package mutlog

// Bounds say what a log no longer holds.
type Bounds struct {
	// Pruned is up to where pruning may have dropped mutations that later ones
	// supersede, and what recognises a push that comes again; Beginning if it
	// has dropped nothing.
	Pruned Timestamp

	// Horizon is the newest tombstone that pruning has dropped, or Beginning:
	// a device whose cursor is earlier may hold what that tombstone deleted.
	Horizon Timestamp

	// Gaps are stretches of what the log has lost, in the order of being recorded.
	Gaps []Gap
}

// Gap is the stretch later than After and not later than Until: a cursor in it
// has seen mutations that the log has lost, because an older state of the store
// was restored, or the log erased.
type Gap struct{ After, Until Timestamp }

// NoBounds are those of a log that holds all that was ever pushed to it.
var NoBounds = Bounds{Pruned: Beginning, Horizon: Beginning}

// End returns the end of all gaps, or Beginning: every new timestamp is later
// (rule 17). That is not always the newest gap's, if a clock was wrong.
func (b *Bounds) End() Timestamp {
	end := Beginning
	for _, gap := range b.Gaps {
		end = max(end, gap.Until)
	}
	return end
}

// refuses returns the reason why the log cannot vouch for a cursor that is not
// later than its head, or "" (rules 17 and 18). A device with the cursor 0 or
// Beginning has seen nothing.
func (b *Bounds) refuses(cursor Timestamp) Reason {
	if cursor <= 0 {
		return ""
	}
	for _, gap := range b.Gaps {
		if gap.After < cursor && cursor <= gap.Until {
			return CursorAhead
		}
	}
	if cursor < b.Horizon {
		return CursorExpired
	}
	return ""
}
