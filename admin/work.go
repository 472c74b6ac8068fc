package admin

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// Line is a line of the answer to a request that takes long: how far it has come
// or, as the last one, its result or why it failed. A failure before the first
// line is answered as that of any other request.
type Line struct {
	Step   string          `json:"step,omitempty"`
	Done   int64           `json:"done,omitempty"`  // in the unit of the step
	Total  int64           `json:"total,omitempty"` // 0 if nobody knows
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// Progress is told how far a step of long work has come: done of total, which is
// 0 if nobody knows it.
type Progress func(step string, done, total int64)

// work makes a handler of what takes long. It ends when the operator goes away.
func (h *Handler) work(do func(r *http.Request, tell Progress) (any, error)) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) (any, error) {
		lines := &lines{w: w, flush: http.NewResponseController(w).Flush}
		result, err := do(r, lines.progress)
		if err != nil && !lines.begun {
			return nil, err
		}
		if err != nil {
			h.Logger.Warn("an operator's request failed", "method", r.Method, "path", r.URL.Path, "error", err)
			lines.write(Line{Error: errorOf(err)})
			return nil, nil
		}
		text, err := json.Marshal(result)
		if err != nil {
			return nil, err
		}
		lines.write(Line{Result: text})
		return nil, nil
	}
}

// lines writes the lines of an answer.
type lines struct {
	w     http.ResponseWriter
	flush func() error

	mu    sync.Mutex
	begun bool
	last  time.Time
}

// linesEvery is how often progress is told.
const linesEvery = 100 * time.Millisecond

func (l *lines) progress(step string, done, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.last) >= linesEvery {
		l.last = now
		l.put(Line{Step: step, Done: done, Total: total})
	}
}

func (l *lines) write(line Line) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put(line)
}

func (l *lines) put(line Line) {
	if !l.begun {
		l.w.Header().Set("Content-Type", contentLines)
		l.w.Header().Set("Cache-Control", "no-store")
		l.begun = true
	}
	json.NewEncoder(l.w).Encode(line) // if the operator is gone, the request's context says so
	l.flush()
}

// contentLines is the media type of lines of JSON.
const contentLines = "application/x-ndjson"
