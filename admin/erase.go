package admin

import (
	"net/http"
	"time"

	"tidemark/export"
	"tidemark/mutlog"
)

// Erased says what an erasure has removed.
type Erased struct {
	Mutations int              `json:"mutations"`
	Tokens    int              `json:"tokens"`
	Until     mutlog.Timestamp `json:"until"` // the end of the gap that is left
}

// eraseUser removes all that is known of a user. Tokens go first, so that no
// device of the user comes back in between.
func (h *Handler) eraseUser(r *http.Request, tell Progress) (any, error) {
	user, err := userOf(r)
	if err != nil {
		return nil, err
	}
	erased := &Erased{}
	if erased.Tokens, err = h.Authority.RevokeUser(r.Context(), user); err != nil {
		return nil, err
	}
	h.Devices.Forget(user)
	head, _, err := export.State(r.Context(), h.Store, user)
	if err != nil {
		return nil, err
	}
	erased.Until = max(mutlog.Timestamp(time.Now().UnixMilli()), head)
	err = h.Store.Erase(r.Context(), user, erased.Until, func(mutations int) {
		erased.Mutations = mutations
		tell("erasing", int64(mutations), 0)
	})
	if err == nil && h.Holds != nil {
		err = h.Holds.Refresh(r.Context()) // an import that had not ended is gone, too
	}
	return erased, err
}
