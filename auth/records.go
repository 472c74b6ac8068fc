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
//	kind     owner   name    value
//	token    id      -       JSON, see tokenRecord
//	signout  user    -       Unix milliseconds as text: JWTs issued until then do not count any more
//	ticket   hash    -       JSON, see ticketRecord
//	jwks     issuer  -       JSON, see keysRecord
//	auth     all     closed  is there from the first token on: the server is closed
//	auth     all     change  the ULID of the newest revocation, for other processes to notice
type Records interface {
	Record(ctx context.Context, key mutlog.RecordKey) ([]byte, error)
	UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func(old []byte) ([]byte, error)) error
	Records(ctx context.Context, kind, owner string) iter.Seq2[mutlog.Record, error]
}

func tokenKey(id string) mutlog.RecordKey { return mutlog.RecordKey{Kind: "token", Owner: id} }

var (
	closedKey = mutlog.RecordKey{Kind: "auth", Owner: "all", Name: "closed"}
	changeKey = mutlog.RecordKey{Kind: "auth", Owner: "all", Name: "change"}
)
