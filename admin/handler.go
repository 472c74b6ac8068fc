package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"tidemark/auth"
	"tidemark/backup"
	"tidemark/devices"
	"tidemark/export"
	"tidemark/mutlog"
	"tidemark/store"
	"tidemark/transfer"
)

// Options say what a Handler works on.
type Options struct {
	Store     mutlog.Store
	Authority *auth.Authority
	Logger    *slog.Logger

	// Devices is what a server has seen of devices; nil where there is no
	// server.
	Devices *devices.Tracker

	// Holds is what a server refuses users by; nil where there is no server.
	Holds *export.Holds

	// Settle is how long servers may take to notice an import.
	Settle time.Duration

	// Figures answers with the metrics of a server; nil where there is none.
	Figures http.Handler

	// Backup makes backups; nil means with this process alone, and none of a
	// database.
	Backup Backup
}

// Handler answers the requests of operators. Whoever reaches it may do
// everything.
type Handler struct {
	Options
	mux *http.ServeMux
}

// NewHandler returns a handler.
func NewHandler(o Options) *Handler {
	if o.Devices == nil {
		o.Devices = devices.NewTracker(o.Store, o.Logger)
	}
	if bolt, ok := o.Store.(*store.Bolt); ok && o.Backup == nil {
		o.Backup = func(ctx context.Context, file string, b backup.Options) (*backup.Manifest, error) {
			return backup.Make(ctx, bolt, file, b)
		}
	}
	h := &Handler{Options: o, mux: http.NewServeMux()}
	for pattern, do := range h.routes() {
		h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			h.answer(w, r, do)
		})
	}
	return h
}

// Routes returns the route table, each as "GET /v1/tokens".
func (h *Handler) Routes() []string { return slices.Collect(maps.Keys(h.routes())) }

// routes is the route table.
func (h *Handler) routes() map[string]handlerFunc {
	return map[string]handlerFunc{
		"GET /metrics":           h.metrics,
		"GET /v1/tokens":         h.listTokens,
		"POST /v1/tokens":        h.createToken,
		"DELETE /v1/tokens":      h.revokeTokens,
		"DELETE /v1/tokens/{id}": h.revokeToken,
		"GET /v1/user":           h.showUser,
		"DELETE /v1/user":        h.work(h.eraseUser),
		"GET /v1/user/export":    h.exportUser,
		"POST /v1/user/import":   h.importUser,
		"POST /v1/backup":        h.work(h.makeBackup),
		"POST /v1/fence":         h.fence,
	}
}

// handlerFunc does what a request asks for. What it returns is sent as JSON,
// unless it has sent an answer of its own and returns nil.
type handlerFunc func(w http.ResponseWriter, r *http.Request) (any, error)

func (h *Handler) answer(w http.ResponseWriter, r *http.Request, do handlerFunc) {
	body, err := do(w, r)
	status := http.StatusOK
	if err != nil {
		e := errorOf(err)
		status, body = e.Status, struct {
			Error *Error `json:"error"`
		}{e}
		h.Logger.Warn("an operator's request failed", "method", r.Method, "path", pathOf(r), "error", err)
	} else if r.Method != http.MethodGet {
		h.Logger.Info("an operator's request", "method", r.Method, "path", pathOf(r))
	}
	if body == nil {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body) // if the command is gone there is nobody to tell
}

// pathOf returns the path of a request for the log. What is there in place of the
// id of a token may be all of it, and it may still count: of that only the id is
// told.
func pathOf(r *http.Request) string {
	id, _ := auth.TokenID(r.PathValue("id"))
	return strings.TrimSuffix(r.URL.Path, r.PathValue("id")) + id
}

// maxBodyBytes bounds the body of a request that is decoded at once.
const maxBodyBytes = 1 << 20

// decode reads the body of a request into to.
func decode(r *http.Request, to any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxBodyBytes))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return &Error{Status: http.StatusBadRequest, Message: "the body is not what it should be: " + err.Error()}
	}
	return nil
}

// Error is a request that failed.
type Error struct {
	Status  int    `json:"status"` // of HTTP
	Message string `json:"message"`
}

func (e *Error) Error() string { return e.Message }

// errorOf is the one place where errors become answers. Operators may know
// everything.
func errorOf(err error) *Error {
	var known *Error
	var token *auth.TokenError
	status := http.StatusInternalServerError
	switch {
	case errors.As(err, &known):
		return known
	case errors.As(err, &token), errors.Is(err, export.ErrFormat):
		status = http.StatusBadRequest
	case errors.Is(err, export.ErrNotEmpty), errors.Is(err, export.ErrOther), errors.Is(err, transfer.ErrDiverged), errors.Is(err, backup.ErrExists):
		status = http.StatusConflict
	case errors.Is(err, auth.ErrNoToken):
		status = http.StatusNotFound
	case errors.Is(err, mutlog.ErrUnavailable), errors.Is(err, mutlog.ErrOutcomeUnknown):
		status = http.StatusServiceUnavailable
	}
	return &Error{status, err.Error()}
}
