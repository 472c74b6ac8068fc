package admin

import (
	"fmt"
	"net/http"
)

// refuse makes a handler that answers with an error.
func refuse(status int, format string, args ...any) handlerFunc {
	return func(http.ResponseWriter, *http.Request) (any, error) {
		return nil, &Error{Status: status, Message: fmt.Sprintf(format, args...)}
	}
}

// ServeHTTP answers one request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, pattern := h.mux.Handler(r); pattern != "" {
		h.mux.ServeHTTP(w, r)
		return
	}
	// The mux says in plain text why it has no handler.
	said := &refusal{header: http.Header{}}
	h.mux.ServeHTTP(said, r)
	if allow := said.header.Get("Allow"); allow != "" {
		w.Header().Set("Allow", allow)
		h.answer(w, r, refuse(http.StatusMethodNotAllowed, "this path does not know the method %s", r.Method))
		return
	}
	h.answer(w, r, refuse(http.StatusNotFound, "there is nothing at this path"))
}

// refusal takes an answer for its headers.
type refusal struct{ header http.Header }

func (r *refusal) Header() http.Header         { return r.header }
func (r *refusal) WriteHeader(int)             {}
func (r *refusal) Write(b []byte) (int, error) { return len(b), nil }
