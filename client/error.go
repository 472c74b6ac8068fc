package client

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"tidemark/mutlog"
)

// Error is an answer that is no success. errors.Is and errors.As find in it
// what the log said: *mutlog.OutOfSyncError, *mutlog.ValidationError,
// mutlog.ErrKeyReused or mutlog.ErrUnavailable.
//
// A push that was answered with a 5xx, or not at all, may have been applied:
// the same push again finds out, and is applied once. All others were not.
type Error struct {
	Status    int    // of HTTP
	Code      string // such as "OutOfSyncError"; empty if the answer came from something else than a tidemark server
	Message   string
	RequestID string // under which the server's log has the request; may be empty

	// RetryAfter is how long to wait before the same is sent again; 0 if the
	// server does not say, or that would not help.
	RetryAfter time.Duration

	cause error // what Unwrap returns; nil if package mutlog has no name for it
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%d %s: %s", e.Status, e.Code, e.Message)
	if e.Code == "" {
		s = fmt.Sprintf("%d: %s", e.Status, e.Message)
	}
	if e.RequestID != "" {
		s += " (request " + e.RequestID + ")"
	}
	return s
}

// Unwrap returns the error of package mutlog that the answer stands for, or nil.
func (e *Error) Unwrap() error { return e.cause }

// errorOf makes an error of an answer whose body may be anything: a proxy
// answers in its own words.
func errorOf(response *http.Response, body []byte) error {
	var envelope struct {
		Error struct {
			Code    string          `json:"code"`
			Message string          `json:"message"`
			Details json.RawMessage `json:"details"`
		} `json:"error"`
	}
	e := &Error{
		Status:    response.StatusCode,
		Message:   http.StatusText(response.StatusCode),
		RequestID: response.Header.Get("X-Request-Id"),
	}
	if seconds, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 20); err == nil {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	if json.Unmarshal(body, &envelope) != nil || envelope.Error.Code == "" {
		return e
	}
	e.Code, e.Message = envelope.Error.Code, envelope.Error.Message
	e.cause = causeOf(e.Code, e.Message, envelope.Error.Details)
	return e
}

// causeOf rebuilds the error that the server had, as errors.go of package
// server told it; nil if the code is none that package mutlog has a name for,
// or the details are not its own.
func causeOf(code, message string, details json.RawMessage) error {
	switch code {
	case "OutOfSyncError":
		return outOfSync(details)
	case "ValidationError":
		return invalid(message, details)
	case "IdempotencyKeyReuseError":
		return mutlog.ErrKeyReused
	case "UnavailableError":
		return mutlog.ErrUnavailable
	}
	return nil
}

func outOfSync(details []byte) error {
	type branch struct {
		Type      mutlog.Type      `json:"type"`
		Data      json.RawMessage  `json:"data"`
		Timestamp mutlog.Timestamp `json:"timestamp"`
	}
	var d struct {
		Reason    mutlog.Reason    `json:"reason"`
		Client    mutlog.Timestamp `json:"clientLastMutationAt"`
		Server    mutlog.Timestamp `json:"serverLastMutationAt"`
		Conflicts []struct {
			Index      int      `json:"index"`
			Resource   string   `json:"resource"`
			ResourceID string   `json:"resourceId"`
			Client     branch   `json:"client"`
			Server     branch   `json:"server"`
			Fields     []string `json:"fields"`
		} `json:"conflicts"`
	}
	if json.Unmarshal(details, &d) != nil {
		return nil
	}
	e := &mutlog.OutOfSyncError{Reason: d.Reason, Client: d.Client, Server: d.Server}
	if d.Conflicts != nil { // a push has a list of them, which may be empty, and a pull has none
		e.Conflicts = make([]mutlog.Conflict, len(d.Conflicts))
	}
	for i, c := range d.Conflicts {
		mutation := func(b branch) mutlog.Mutation {
			return mutlog.Mutation{Type: b.Type, Resource: c.Resource, ResourceID: c.ResourceID, Data: b.Data, Timestamp: b.Timestamp}
		}
		e.Conflicts[i] = mutlog.Conflict{Index: c.Index, Client: mutation(c.Client), Server: mutation(c.Server), Fields: c.Fields}
	}
	return e
}

func invalid(message string, details []byte) error {
	var d struct {
		Errors []struct {
			Index   *int   `json:"index"`
			Member  string `json:"member"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(details, &d) != nil || len(d.Errors) == 0 {
		return &mutlog.ValidationError{Faults: []mutlog.Fault{{Index: mutlog.NoIndex, Message: message}}}
	}
	e := &mutlog.ValidationError{}
	for _, fault := range d.Errors {
		index := mutlog.NoIndex
		if fault.Index != nil {
			index = *fault.Index
		}
		e.Faults = append(e.Faults, mutlog.Fault{Index: index, Member: fault.Member, Message: fault.Message})
	}
	return e
}
