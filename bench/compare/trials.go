package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"

	"tidemark/bench/load"
)

// trial measures one thing once.
type trial struct {
	name string
	what string // for the table of figures
	run  func(ctx context.Context, b *bench, name string) error
}

// trials are all of them in the order of a round: those that are compared stand
// together.
var trials = []trial{
	{"disk/4k", "write of 4 KiB over old data + fdatasync, one after the other", writes},
	{"tidemark/lone", "tidemark: pushes of 10 on one connection", tidemarkPushes(pushes{batch: 10, connections: 1})},
	{"disk/append", "append of the JSON of 10 mutations + fdatasync, one after the other", appends},

	{"floor/10", "floor: pushes of 10", floorPushes(10)},
	{"tidemark/10", "tidemark: pushes of 10", tidemarkPushes(pushes{batch: 10})},
	{"pocketbase/10", "PocketBase: batch creates of 10", pocketbaseCreates},
	{"tidemark/10 stale", "tidemark: pushes of 10 that are accepted, as many again refused", tidemarkPushes(pushes{batch: 10, stale: 0.5})},

	{"floor/1", "floor: pushes of 1", floorPushes(1)},
	{"tidemark/1", "tidemark: pushes of 1", tidemarkPushes(pushes{batch: 1})},
	{"floor/100", "floor: pushes of 100", floorPushes(100)},
	{"tidemark/100", "tidemark: pushes of 100", tidemarkPushes(pushes{batch: 100})},

	{"echo/poll", "echo: a constant of the size of a metadataOnly answer", echoPolls},
	{"tidemark/poll", "tidemark: metadataOnly polls", tidemarkPolls},

	{"file/pull", "net/http: the bytes of a pull of 1,000 changes from memory", filePulls},
	{"tidemark/pull", "tidemark: pulls of 1,000 changes", tidemarkPulls},
	{"tidemark/snapshot", "tidemark: snapshots of 100,000 resources on one connection", tidemarkSnapshots},

	{"empty/poll", "empty store: metadataOnly polls", emptyPolls},
	{"big/poll", "large store: metadataOnly polls", bigPolls},
	{"empty/10", "empty store: pushes of 10", tidemarkPushes(pushes{batch: 10})},
	{"big/10", "large store: pushes of 10", bigPushes},
	{"big/start", "large store: start until the first answer", bigStart},
}

// sync is the load of the users of this run, on a server that knows none of
// them.
func (b *bench) sync(s *subject) load.Sync {
	return load.Sync{
		URL: s.url, Users: b.scale.users, Connections: connections, Batch: 10, MutationBytes: 250,
		Updates: 0.2, Deletes: 0.05, UserPrefix: "user-", Fresh: true, Seed: 1,
	}
}

// pushes says what kind of pushes to measure.
type pushes struct {
	batch       int
	connections int     // 0 for as many as everywhere
	stale       float64 // share of pushes to be refused
}

func (p pushes) on(ctx context.Context, b *bench, name string, s *subject) error {
	sync := b.sync(s)
	sync.Batch, sync.Stale = p.batch, p.stale
	if p.connections > 0 {
		sync.Connections = p.connections
	}
	return b.measure(ctx, name, s, load.Push, sync.Devices())
}

func floorPushes(batch int) func(context.Context, *bench, string) error {
	return func(ctx context.Context, b *bench, name string) error {
		s, err := b.start(ctx, "subject", "floor")
		return with(s, err, func(s *subject) error { return pushes{batch: batch}.on(ctx, b, name, s) })
	}
}

func tidemarkPushes(p pushes) func(context.Context, *bench, string) error {
	return func(ctx context.Context, b *bench, name string) error {
		return b.onEmpty(ctx, func(s *subject) error { return p.on(ctx, b, name, s) })
	}
}

// onEmpty runs fn on a tidemark with a store of its own, which is empty.
func (b *bench) onEmpty(ctx context.Context, fn func(*subject) error) error {
	dir, err := os.MkdirTemp(b.dir, "empty-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := b.tidemark(ctx, filepath.Join(dir, "tidemark.db"))
	return with(s, err, fn)
}

func pocketbaseCreates(ctx context.Context, b *bench, name string) error {
	dir, err := os.MkdirTemp(b.dir, "pocketbase-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s, err := b.start(ctx, "pocketbase", dir)
	return with(s, err, func(s *subject) error {
		return b.measure(ctx, name, s, load.Push, pocketbaseDevices(s.url, b.scale.users, 10))
	})
}

// emptyHead and anyHead are answers to polls: of a log without mutations, and
// of the size of any other.
const (
	emptyHead = `{"success":true,"data":{"lastMutationAt":-1}}` + "\n"
	anyHead   = `{"success":true,"data":{"lastMutationAt":1731636500303}}` + "\n"
)

// polls are polls of users at random. They are judged by their size alone, so
// that the generator costs the same whoever answers.
func polls(s *subject, users, size int) []load.Device {
	return gets(s.url, connections, users, "/v1/sync?mutationsSince=0&metadataOnly=true", load.Poll, size)
}

func echoPolls(ctx context.Context, b *bench, name string) error {
	file := b.path("head.json")
	if err := os.WriteFile(file, []byte(anyHead), 0o644); err != nil {
		return err
	}
	s, err := b.start(ctx, "subject", "echo", file)
	return with(s, err, func(s *subject) error {
		return b.measure(ctx, name, s, load.Poll, polls(s, b.scale.users, len(anyHead)))
	})
}

func tidemarkPolls(ctx context.Context, b *bench, name string) error {
	return b.onEmpty(ctx, func(s *subject) error {
		each := b.sync(s) // one push for each user
		each.Turns = 1
		if err := b.fill(ctx, s, each.Devices()); err != nil {
			return err
		}
		return b.measure(ctx, name, s, load.Poll, polls(s, b.scale.users, len(anyHead)))
	})
}

func emptyPolls(ctx context.Context, b *bench, name string) error {
	return b.onEmpty(ctx, func(s *subject) error {
		return b.measure(ctx, name, s, load.Poll, polls(s, b.scale.users, len(emptyHead)))
	})
}

// fill runs devices until they end.
func (b *bench) fill(ctx context.Context, s *subject, devices []load.Device) error {
	_, err := checked(ctx, load.Run(ctx, load.Options{URL: s.url}, devices))
	return err
}

const (
	// changes is how many a pull has.
	changes      = 1000
	changesPath  = "/v1/sync?mutationsSince=0"
	snapshotPath = "/v1/sync?mutationsSince=-1"

	// The users of the library: what they have is there to be read.
	reader    = "reader-"
	collector = "collector-"
)

// onLibrary runs fn on a tidemark whose store has a reader with a number of
// changes and a collector with a snapshot, which is made once for all rounds.
func (b *bench) onLibrary(ctx context.Context, fn func(*subject) error) error {
	s, err := b.tidemark(ctx, b.path("library.db"))
	return with(s, err, func(s *subject) error {
		if !b.library {
			for user, resources := range map[string]int{reader: changes, collector: b.scale.resources} {
				one := b.sync(s)
				one.UserPrefix, one.Users, one.Connections, one.Batch = user, 1, 1, 100
				one.Updates, one.Deletes, one.Turns = 0, 0, resources/one.Batch
				if err := b.fill(ctx, s, one.Devices()); err != nil {
					return err
				}
			}
			if err := b.save(ctx, s.url, b.path("pull.json")); err != nil {
				return err
			}
			b.library = true
		}
		return fn(s)
	})
}

// save writes the reader's pull to a file.
func (b *bench) save(ctx context.Context, u *url.URL, file string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String()+changesPath, nil)
	if err != nil {
		return err
	}
	request.Header.Set("X-User-Id", reader+"0")
	request.Header.Set("Accept-Encoding", "identity")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	if err != nil {
		return fmt.Errorf("a pull: %w", err)
	}
	return os.WriteFile(file, body, 0o644)
}

// pulls are pulls of all that the reader has.
func (b *bench) pulls(s *subject) []load.Device {
	info, err := os.Stat(b.path("pull.json"))
	if err != nil {
		return nil
	}
	return getsOf(s.url, connections, reader+"0", changesPath, load.Pull, int(info.Size()))
}

func filePulls(ctx context.Context, b *bench, name string) error {
	if !b.library {
		if err := b.onLibrary(ctx, func(*subject) error { return nil }); err != nil {
			return err
		}
	}
	s, err := b.start(ctx, "subject", "file", b.path("pull.json"))
	return with(s, err, func(s *subject) error { return b.measure(ctx, name, s, load.Pull, b.pulls(s)) })
}

func tidemarkPulls(ctx context.Context, b *bench, name string) error {
	return b.onLibrary(ctx, func(s *subject) error { return b.measure(ctx, name, s, load.Pull, b.pulls(s)) })
}

// tidemarkSnapshots notes as other the longest time to the first byte.
func tidemarkSnapshots(ctx context.Context, b *bench, name string) error {
	return b.onLibrary(ctx, func(s *subject) error {
		devices := getsOf(s.url, 1, collector+"0", snapshotPath, load.Pull, anySize)
		r, err := b.load(ctx, s, devices, b.length)
		if err != nil {
			return err
		}
		k := r.Kinds[load.Pull.String()]
		b.note(name, figure{perSecond: k.PerSecond, p50: k.Latency.P50, p99: k.Latency.P99, other: k.FirstByte.Max})
		return nil
	})
}
