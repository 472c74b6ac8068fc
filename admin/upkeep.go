package admin

import (
	"context"
	"net/http"
	"path/filepath"
	"time"

	"tidemark/backup"
	"tidemark/mutlog"
)

// NewBackup is what a backup shall be.
type NewBackup struct {
	File           string `json:"file"`           // its path on the machine of the server
	BytesPerSecond int64  `json:"bytesPerSecond"` // 0 for no bound
}

// Backup makes a backup of a store to a new file.
type Backup func(ctx context.Context, file string, o backup.Options) (*backup.Manifest, error)

func (h *Handler) makeBackup(r *http.Request, tell Progress) (any, error) {
	var wanted NewBackup
	if err := decode(r, &wanted); err != nil {
		return nil, err
	}
	switch {
	case h.Backup == nil:
		return nil, &Error{Status: http.StatusBadRequest, Message: "the store is a database, which has backups of its own, such as pg_dump"}
	case !filepath.IsAbs(wanted.File) || wanted.BytesPerSecond < 0:
		return nil, &Error{Status: http.StatusBadRequest, Message: "file must be an absolute path, and bytesPerSecond at least 0"}
	}
	return h.Backup(r.Context(), wanted.File, backup.Options{BytesPerSecond: wanted.BytesPerSecond, Progress: tell})
}

// metrics answers with the figures of the server.
func (h *Handler) metrics(w http.ResponseWriter, r *http.Request) (any, error) {
	if h.Figures == nil {
		return nil, &Error{Status: http.StatusNotFound, Message: "there are no metrics, because no server has the store"}
	}
	w.Header().Set("Cache-Control", "no-store")
	h.Figures.ServeHTTP(w, r)
	return nil, nil
}

// Fence is a time up to which every log has a gap.
type Fence struct {
	At mutlog.Timestamp `json:"at"` // 0 means now
}

func (h *Handler) fence(_ http.ResponseWriter, r *http.Request) (any, error) {
	var fence Fence
	if err := decode(r, &fence); err != nil {
		return nil, err
	}
	if fence.At == 0 {
		fence.At = mutlog.Timestamp(time.Now().UnixMilli())
	}
	if fence.At < 1 || fence.At > mutlog.MaxTimestamp {
		return nil, &Error{Status: http.StatusBadRequest, Message: "at must be a time in Unix milliseconds"}
	}
	return fence, h.Store.Fence(r.Context(), fence.At)
}
