// Package mutlog is the rules of the mutation log, and nothing else: no HTTP,
// no disk, and a clock that is handed in. Tests cite the rules by number.
//
//  1. Every user has one log. Logs never mix: whatever is asked of one, no
//     other has a part in the answer.
//  2. A log is append-only. Its head is the timestamp of its newest mutation,
//     or -1 while it is empty, and never goes back.
//  3. Timestamps are integer Unix milliseconds from 1 to 2^53-1, strictly
//     increasing in a log: the first of a batch gets max(now, head + 1), each
//     further one the next, whatever the clock does.
//  4. A cursor is exact decimal text for an integer from -1 to 2^53-1.
//  5. A mutation has a type, a resource ^[A-Z][A-Z0-9_]{0,63}$, a resourceId of
//     1 to 128 printable bytes, which only a CREATE may leave to the server,
//     and, unless it is a DELETE, an object as data: strict JSON without NUL,
//     at most 64 levels deep, within the limit of bytes. It is kept and given
//     back byte for byte.
//  6. A CREATE sets its resource to data, whatever was there; an UPDATE applies
//     data as a JSON Merge Patch (RFC 7396), to {} if the resource is missing
//     or deleted; a DELETE leaves a tombstone, also of what was never there.
//     The data of a resource stays within the limit of bytes, too.
//  7. A batch is applied whole or not at all, and is durable before the answer.
//  8. A push is applied only if its cursor is the head. Otherwise it is refused
//     and changes nothing.
//  9. An empty batch checks the cursor, changes nothing and is not remembered.
//  10. A push without a key that has the cursor, the mutations and the client
//     of an applied batch without a key is that batch again: it is answered as
//     the first was and applies nothing, even when the head has moved on.
//  11. A push with a key is that batch again which was applied with the key, if
//     the mutations are the same, whatever the cursor; if they are others, it
//     is refused. It is never taken for one with another key or none.
//  12. A refusal tells which of its mutations collide: those whose resource has
//     changed since the cursor, with both branches. A push that asks to be
//     merged is applied behind the head if none does, provided the log can
//     vouch for its cursor, and its answer holds what a pull of the cursor
//     would have given just before, however often it is repeated and whether
//     or not the repeat asks to be merged.
//  13. A pull of a cursor gives each resource whose newest mutation is later,
//     once, in the order of those mutations, with its complete state: CREATE if
//     its present life began later than the cursor, else UPDATE, or DELETE if
//     it is a tombstone. A life begins with the mutation that makes a missing
//     or deleted resource live. A cursor above 0 later than the head is refused.
//  14. A pull of -1 gives the snapshot: every live resource as CREATE.
//  15. A pull gives one state of the log, all of it unless a limit or page was
//     asked for, in bounded memory and without holding up any push. Pages that
//     continue after the last timestamp seen skip nothing, because a change
//     moves its resource behind it.
//  16. The history is the raw log: every mutation as it was accepted, in order.
//  17. Restoring an older state of a store, or erasing a log, leaves a gap: from
//     the newest mutation that is still there to the moment when it happened. A
//     cursor in a gap is ahead of the log, for a push as for a pull, however far
//     the log has come since, and every new timestamp is later than all gaps.
//  18. A cursor above 0 that is earlier than a tombstone that the log has dropped
//     has expired: neither a pull nor a push of it is answered, because the log
//     cannot tell the device what to delete. A pull under way is not finished
//     once that is true of its cursor. Nor is the repeat of a merged push answered
//     once it is true of the cursor it was merged from, unless its device has
//     pulled since, and so needs no changes.
//  19. Of what is older than the history is to be kept, and than repeats are to
//     be recognised, pruning drops the mutations that a later one as old
//     supersedes, and tombstones that are older than those are to be kept; never
//     the newest mutation of a log. So it moves no head, and changes no pull of
//     a cursor that has not expired, nor of -1. The history is complete later
//     than it has dropped anything, and a repeat of what it has pruned is a new
//     push.
//  20. A configuration may list the kinds of resources that there are. A push of
//     another kind is refused. What a log holds stays readable, whatever a later
//     configuration says. A request keeps the configuration it began with.
//  21. A kind may be composite: its resources are identified by key fields of
//     their data, strings that are not empty or integers. Their resourceId is the
//     values of these joined by "-"; a mutation may leave it out, and must not
//     have another. A CREATE and the data after an UPDATE have all key fields, and
//     a DELETE has them in its data. What pulls give leaves out the resourceId
//     where the data makes it; a tombstone's data is its key fields. Other values
//     that make the same resourceId are refused. A resource from before its kind
//     was composite stays under its resourceId, which pulls then give, and can be
//     deleted by it.
//  22. A kind may have a schema for the data of its resources after a mutation,
//     and a bound for its bytes. What breaks them is refused, every fault of all
//     mutations at once. That a CREATE breaks its schema is looked at before the
//     cursor; a push that was applied before is answered again all the same.
//  23. A kind may have a scope of its own. To a device that has not got it, pulls
//     give nothing of that kind, of the log's history neither, nor do the changes
//     in the answer to a push; a push with one mutation of it is refused whole,
//     and so is the question for it by name. The head is that of the whole log.
//  24. There may be a quota of what a user has alive: bytes of data, resources,
//     and resources of a kind. A push is refused if after it more is live than
//     the quota and than before; its mutations are those at fault that what the
//     push frees leaves no room for. So none is refused for a DELETE, nor for
//     making a resource smaller, nor one that was applied before.
package mutlog
