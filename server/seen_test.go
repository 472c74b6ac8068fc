package server_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"tidemark/devices"
	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store"
)

// TestSeen goes through what devices do, and looks at what an operator then
// knows of them.
func TestSeen(t *testing.T) {
	bolt, err := store.OpenBolt(filepath.Join(t.TempDir(), "tidemark.db"), store.BoltOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer bolt.Close()
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	tracker := devices.NewTracker(bolt, logger)
	log := mutlog.New(bolt, mutlog.DefaultLimits)
	clock := time.UnixMilli(1000)
	log.Now = func() time.Time { return clock }
	tracker.Now = log.Now
	s := server.New(server.Options{Log: log, Limits: mutlog.DefaultLimits, MaxBodyBytes: 1 << 20, Logger: logger, Devices: tracker})
	host := httptest.NewServer(s)
	defer host.Close()
	ask := func(client, method, query, body string, want int) {
		t.Helper()
		req, err := http.NewRequest(method, host.URL+"/v1/sync?"+query, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("x-client-id", client)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != want {
			t.Fatalf("%s ?%s: status %d, want %d", method, query, res.StatusCode, want)
		}
	}
	note := func(id string) string {
		return fmt.Sprintf(`{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":%q,"data":{}}]}`, id)
	}
	ask("phone", "POST", "lastMutationAt=-1", note("a"), 200) // 1000
	ask("phone", "POST", "lastMutationAt=-1", note("a"), 200) // again
	ask("phone", "POST", "lastMutationAt=1000", note("b"), 200)
	ask("tablet", "GET", "mutationsSince=-1", "", 200)
	clock = time.UnixMilli(5000)
	ask("phone", "POST", "lastMutationAt=1001", note("c"), 200) // 5000
	ask("tablet", "GET", "mutationsSince=1001&limit=1", "", 200)
	ask("tablet", "GET", "metadataOnly=true&mutationsSince=1001", "", 200)
	ask("tablet", "POST", "lastMutationAt=1001", note("c"), 409)
	ask("desk", "GET", "mutationsSince=9000", "", 409)
	ask("desk", "GET", "mutationsSince=9000&limit=0", "", 422)
	ask("watch", "POST", "lastMutationAt=oops", note("d"), 400)

	got, err := tracker.Devices(t.Context(), server.DefaultUser)
	if err != nil {
		t.Fatal(err)
	}
	refusal := func(status int, code string, reason mutlog.Reason, cursor mutlog.Timestamp) *devices.Refusal {
		return &devices.Refusal{At: clock.UTC(), Status: status, Code: code, Reason: reason, Cursor: cursor}
	}
	want := []devices.Device{
		{Client: "desk", Cursor: 9000, Counts: devices.Counts{Pulls: 2, Refusals: 2}, LastRefusal: refusal(422, "ValidationError", "", 9000)},
		{Client: "phone", Cursor: 5000, Counts: devices.Counts{Pushes: 4, Replays: 1}},
		{Client: "tablet", Cursor: 1001, Counts: devices.Counts{Pushes: 1, Pulls: 3, Refusals: 1}, LastRefusal: refusal(409, "OutOfSyncError", mutlog.StaleCursor, 1001)},
		{Client: "watch", Cursor: -1, Counts: devices.Counts{Pushes: 1, Refusals: 1}, LastRefusal: refusal(400, "InvalidRequestError", "", -1)},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(devices.Device{}, "FirstSeen", "LastSeen")); diff != "" {
		t.Errorf("(- want, + got)\n%s", diff)
	}
}
