package auth

import (
	"context"
	"iter"

	"tidemark/mutlog"
)

// Records is what this package needs of a store, see mutlog.Store.
//
// It keeps there:
//
//	kind      owner  name  value
//	token     id     -     JSON, see tokenRecord
//	signout   user   -     Unix milliseconds as text: JWTs issued before do not count any more
//	ticket    hash   -     JSON, see ticketRecord
//	auth      all    -     the ULID of the newest change that others must notice
//
// The last one closes the server: while it is missing there has never been a
// token.
type Records interface {
	Record(ctx context.Context, key mutlog.RecordKey) ([]byte, error)
	UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func(old []byte) ([]byte, error)) error
	Records(ctx context.Context, kind, owner string) iter.Seq2[mutlog.Record, error]
}

func tokenKey(id string) mutlog.RecordKey { return mutlog.RecordKey{Kind: "token", Owner: id} }

var changeKey = mutlog.RecordKey{Kind: "auth", Owner: "all"}
