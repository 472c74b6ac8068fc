package admin

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"tidemark/devices"
	"tidemark/export"
	"tidemark/mutlog"
)

// UserInfo is what is known of a user.
type UserInfo struct {
	User    mutlog.User      `json:"user"`
	Head    mutlog.Timestamp `json:"head"` // of the log, or -1
	Bounds  export.Bounds    `json:"bounds"`
	Held    bool             `json:"held"` // whether the user is refused, because an import has not ended
	Devices []DeviceInfo     `json:"devices"`
}

// DeviceInfo is what is known of a device, and how it stands to the log.
type DeviceInfo struct {
	devices.Device

	// Behind is how many mutations are later than its cursor; MaxBehind is that
	// many or more.
	Behind int `json:"behind"`

	// MustPull is the reason why its cursor would be refused and it must take the
	// snapshot, or "".
	MustPull mutlog.Reason `json:"mustPull,omitempty"`
}

// MaxBehind bounds what is counted for a device.
const MaxBehind = 1000

// userOf returns the user that a request is about. A parameter that is repeated,
// misspelt or unreadable could mean another user, who would be erased.
func userOf(r *http.Request) (mutlog.User, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	users := query["user"]
	if err != nil || len(query) != 1 || len(users) != 1 || !mutlog.User(users[0]).Valid() {
		return "", &Error{Status: http.StatusBadRequest, Message: "the parameter user, and no other, must name a user: 1 to 255 bytes without control characters"}
	}
	return mutlog.User(users[0]), nil
}

func (h *Handler) showUser(_ http.ResponseWriter, r *http.Request) (any, error) {
	user, err := userOf(r)
	if err != nil {
		return nil, err
	}
	info := &UserInfo{User: user, Devices: []DeviceInfo{}}
	if info.Head, info.Bounds, err = export.State(r.Context(), h.Store, user); err != nil {
		return nil, err
	}
	if info.Held, err = export.Unfinished(r.Context(), h.Store, user); err != nil {
		return nil, err
	}
	known, err := h.Devices.Devices(r.Context(), user)
	if err != nil {
		return nil, err
	}
	for _, d := range known {
		device, err := h.device(r.Context(), user, d)
		if err != nil {
			return nil, err
		}
		info.Devices = append(info.Devices, device)
	}
	return info, nil
}

// device says how a device stands to the log of its user.
func (h *Handler) device(ctx context.Context, user mutlog.User, d devices.Device) (info DeviceInfo, err error) {
	info.Device = d
	_, err = mutlog.New(h.Store, mutlog.DefaultLimits).Pull(ctx, user, mutlog.Query{Since: d.Cursor, Limit: 1})
	if refusal := (*mutlog.OutOfSyncError)(nil); errors.As(err, &refusal) {
		info.MustPull = refusal.Reason
		return info, nil
	}
	if err != nil {
		return info, err
	}
	err = h.Store.View(ctx, user, func(tx mutlog.Reader) error {
		info.Behind = 0
		for after := d.Cursor; info.Behind < MaxBehind; {
			entries, upTo, err := tx.History(after, mutlog.MaxTimestamp, MaxBehind-info.Behind)
			if err != nil {
				return err
			}
			if info.Behind += len(entries); upTo == mutlog.MaxTimestamp {
				return nil
			}
			after = upTo
		}
		return nil
	})
	return info, err
}

// exportUser answers with the log as lines of JSON, which end early if it fails.
func (h *Handler) exportUser(w http.ResponseWriter, r *http.Request) (any, error) {
	user, err := userOf(r)
	if err != nil {
		return nil, err
	}
	if head, _, err := export.State(r.Context(), h.Store, user); err != nil {
		return nil, err
	} else if head == mutlog.Beginning {
		return nil, &Error{Status: http.StatusNotFound, Message: "the user has no log"}
	}
	if n := h.countBatches(r.Context(), user); n > 0 {
		w.Header().Set(batchesHeader, strconv.FormatInt(n, 10))
	}
	w.Header().Set("Content-Type", contentLines)
	w.Header().Set("Cache-Control", "no-store")
	if err := export.Write(r.Context(), h.Store, user, w); err != nil {
		h.Logger.Warn("an export failed", "error", err)
		panic(http.ErrAbortHandler) // nobody may take it for a whole one
	}
	return nil, nil
}

// batchesHeader tells about how many batches an export has.
const batchesHeader = "Tidemark-Batches"

// countBatches returns how many batches the log of a user has, or 0 if the store
// does not know: no export fails for want of that.
func (h *Handler) countBatches(ctx context.Context, user mutlog.User) int64 {
	s, ok := h.Store.(interface {
		CountBatches(context.Context, mutlog.User) (int64, error)
	})
	if !ok {
		return 0
	}
	n, err := s.CountBatches(ctx, user)
	if err != nil {
		return 0
	}
	return n
}

func (h *Handler) importUser(_ http.ResponseWriter, r *http.Request) (any, error) {
	defer io.Copy(io.Discard, r.Body) // or an operator who is still sending would not hear why it failed
	user := mutlog.User("")
	if r.URL.RawQuery != "" {
		var err error
		if user, err = userOf(r); err != nil {
			return nil, err
		}
	}
	in := &export.Import{Store: h.Store, User: user, Settle: h.Settle, Held: h.Holds}
	return in.Run(r.Context(), r.Body)
}
