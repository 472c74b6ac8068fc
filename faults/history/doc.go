// Package history judges the real server by what its devices saw. Random
// devices sync over HTTP through a proxy that loses answers, with retries and,
// in half of the histories, with kills of the process; every request and answer
// is recorded, and the record is held against a model of the protocol. Half of
// the histories have a server with small limits (bugs/00-small-limits.patch), in
// which what takes thousands of batches happens all the time.
//
// The model is the state machine of one log (model.go): its state is a head and
// a rolling hash over all that was ever applied, and each operation says which
// answers a state allows and which state follows. Porcupine then looks for an
// order of the operations, within the times of each, that the model allows
// (linear.go). A push whose answer was lost may have happened at any time since
// its call, or never; the history that a fresh client pulls at the end tells
// which, and pins the end.
//
// What must hold besides, or is better told in words than as "no order was
// found", are the invariants, checked one by one (invariants.go):
//
//	I1   timestamps strictly increase, are unique and from 1 to 2^53-1
//	I2   the log is append-only: whatever was pulled earlier is still there
//	I3   one push wins each head: as many batches as pushes that applied
//	I4   what starts after an answer has at least the head of that answer
//	I5   exactly once: a batch is in the log once, and all answers to it are equal
//	I6   a push of unknown outcome is resolved by its retry
//	I7   a batch is there whole or not at all, and no head is inside of one
//	I8   a refusal changes nothing, not one byte of the file
//	I9   what was acknowledged before a kill is there after it
//	I11  devices that sync in different ways end with the same state
//	I12  nothing of one user appears in an answer to another
//	I14  pages put together are what one pull gives
//	I16  tidemark check finds every store sound
//
// I10 (events), I13 (scopes) and the restore of I9 are not looked at here; I15 (both
// kinds of store answer alike) is a test of package server.
//
// That a mistake would be noticed is proved by making it: the patches in bugs put
// one each into the server, and a test lets each be found (bugs_test.go).
//
// Histories of three servers on one PostgreSQL, with 32 devices of one user, are
// judged alike (nodes_test.go).
//
//	go test ./history                                  500 histories, all bugs
//	go test ./history -run TestHistories -histories 1 -seed 7
//	go test ./history -run TestHistories -long -timeout 3h
//
// A seed fixes what the devices try and what is lost, not how the requests
// interleave: a rare fault may need several runs of its seed.
//
// The package imports nothing of the server, so that no mistake is shared.
package history
