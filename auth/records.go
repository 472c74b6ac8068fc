package auth

import (
	"context"
	"iter"
	"strings"

	"tidemark/mutlog"
)

// Records is what this package needs of a store, see mutlog.Store.
//
// It keeps there:
//
//	kind     owner   name    value
//	token    id      -       JSON, see tokenRecord
//	signout  hash    -       Unix milliseconds as text: JWTs issued until then do not count any more
//	ticket   hash    -       JSON, see ticketRecord
//	jwks     issuer  -       JSON, see keysRecord
//	auth     all     closed  is there from the first token on: the server is closed
//	auth     all     change  the ULID of the newest revocation, for other processes to notice
//
// Before each owner stands ownerMark.
type Records interface {
	Record(ctx context.Context, key mutlog.RecordKey) ([]byte, error)
	UpdateRecord(ctx context.Context, key mutlog.RecordKey, fn func(old []byte) ([]byte, error)) error
	Records(ctx context.Context, kind, owner string) iter.Seq2[mutlog.Record, error]
}

// ownerMark is in front of the owner of each of these records. No user has it in
// the name, so that to erase a user who is called as a token, or "all", removes
// none of them.
const ownerMark = "\x01"

func recordKey(kind, owner, name string) mutlog.RecordKey {
	return mutlog.RecordKey{Kind: kind, Owner: ownerMark + owner, Name: name}
}

// ownerOf returns the owner of a record without the mark.
func ownerOf(r *mutlog.Record) string { return strings.TrimPrefix(r.Owner, ownerMark) }

func tokenKey(id string) mutlog.RecordKey { return recordKey("token", id, "") }

var (
	closedKey = recordKey("auth", "all", "closed")
	changeKey = recordKey("auth", "all", "change")
)
