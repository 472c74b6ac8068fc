package main

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"tidemark/mutlog"
	"tidemark/server"
)

// limitFlags bound what clients can make the server do.
type limitFlags struct {
	MaxBodyBytes      int64         `help:"Largest body of a push, in bytes." default:"1048576"`
	MaxMutations      int           `help:"Most mutations in a push." default:"100"`
	MaxDataBytes      int           `help:"Largest data of a resource, in bytes." default:"65536"`
	QuotaBytes        int64         `help:"Most bytes of data that a user may have alive; 0 for no bound. What frees some is never refused." default:"0"`
	QuotaResources    int64         `help:"Most live resources that a user may have; 0 for no bound." default:"0"`
	MaxHeaderBytes    int           `help:"Most bytes of a request line and headers." default:"16384"`
	MaxConnections    int           `help:"Most connections at once; one more is answered with 503." default:"4096"`
	MaxStreams        int           `help:"Most streams of all users at once, beside the connections; one more is answered with 503." default:"20000"`
	MaxStreamsPerUser int           `help:"Most streams and waiting pulls of one user at once; one more is answered with 429." default:"16"`
	MaxStreamBytes    int           `help:"Most bytes of a stream that may wait for its client; one that lets them wait for 10s is cut." default:"4096"`
	MaxMemory         int64         `help:"Most memory that the requests under way may hold, in bytes; what does not fit is answered with 503. 0 means half of GOMEMLIMIT, or without one a quarter of what the machine or container has, at most 2 GiB." default:"0"`
	ReadTimeout       time.Duration `help:"How long a client may take to send a request; a third of it for the headers." default:"15s"`
	WriteTimeout      time.Duration `help:"How long a client may take to accept a part of an answer, at most 256 KiB." default:"30s"`
	IdleTimeout       time.Duration `help:"How long a connection may wait for its next request." default:"60s"`
}

func (f *limitFlags) validate() error {
	const most = 1 << 30 // bytes: what can be meant
	switch {
	case f.MaxBodyBytes < 1 || f.MaxBodyBytes > most:
		return usageError("--max-body-bytes must be from 1 to %d", most)
	case f.MaxMutations < 1 || f.MaxMutations > 1e6:
		return usageError("--max-mutations must be from 1 to 1000000")
	case f.MaxDataBytes < 2 || f.MaxDataBytes > most:
		return usageError("--max-data-bytes must be from 2 to %d", most)
	case f.QuotaBytes < 0 || f.QuotaResources < 0:
		return usageError("--quota-bytes and --quota-resources must not be negative")
	case f.MaxHeaderBytes < 1024 || f.MaxHeaderBytes > most:
		return usageError("--max-header-bytes must be from 1024 to %d", most)
	case f.MaxConnections < 1 || f.MaxConnections > math.MaxInt32:
		return usageError("--max-connections must be at least 1")
	case f.MaxStreams < 1 || f.MaxStreams > math.MaxInt32:
		return usageError("--max-streams must be at least 1")
	case f.MaxStreamsPerUser < 1 || f.MaxStreamsPerUser > math.MaxInt32:
		return usageError("--max-streams-per-user must be at least 1")
	case f.MaxStreamBytes < 1024 || f.MaxStreamBytes > most:
		return usageError("--max-stream-bytes must be from 1024 to %d", most)
	case f.MaxMemory != 0 && f.MaxMemory < 1<<20:
		return usageError("--max-memory must be 0 or at least %d", 1<<20)
	case f.ReadTimeout < 10*time.Millisecond, f.WriteTimeout < 10*time.Millisecond, f.IdleTimeout < 10*time.Millisecond:
		return usageError("--read-timeout, --write-timeout and --idle-timeout must be at least 10ms")
	}
	return nil
}

// options fills in the options of a server.
func (f *limitFlags) options(o server.Options, logger *slog.Logger) server.Options {
	o.Limits = mutlog.Limits{Mutations: f.MaxMutations, DataBytes: f.MaxDataBytes,
		Quota: mutlog.Count{Resources: f.QuotaResources, Bytes: f.QuotaBytes}}
	o.MaxBodyBytes = f.MaxBodyBytes
	o.MaxHeaderBytes = f.MaxHeaderBytes
	o.MaxConnections, o.MaxStreams = connections(f.MaxConnections, f.MaxStreams, logger)
	o.MaxStreamsPerUser, o.MaxStreamBytes = f.MaxStreamsPerUser, f.MaxStreamBytes
	o.MaxMemory = memory(f.MaxMemory)
	o.ReadHeaderTimeout = f.ReadTimeout / 3
	o.ReadTimeout = f.ReadTimeout
	o.WriteTimeout = f.WriteTimeout
	o.IdleTimeout = f.IdleTimeout
	return o
}

// memory says how much the requests under way may hold if the flag is 0 and
// there is no GOMEMLIMIT, which the server knows by itself. It is a bound for
// the worst that clients can do, and far more than what they do; too low a one
// makes large pushes wait for one another that could share a disk sync.
func memory(flag int64) int64 {
	if flag != 0 || debug.SetMemoryLimit(-1) < math.MaxInt64 {
		return flag
	}
	least := int64(8 << 30)
	for _, file := range []struct{ path, format string }{
		{"/proc/meminfo", "MemTotal: %d kB"},
		{"/sys/fs/cgroup/memory.max", "%d"},
		{"/sys/fs/cgroup/memory/memory.limit_in_bytes", "%d"},
	} {
		text, err := os.ReadFile(file.path)
		var n int64
		if _, scanErr := fmt.Sscanf(string(text), file.format, &n); err != nil || scanErr != nil {
			continue // there is no such bound, or "max"
		}
		if strings.HasSuffix(file.format, "kB") {
			n <<= 10
		}
		least = min(least, n)
	}
	size := max(least/4, 64<<20)
	// Garbage may double what is held, and no more: gcPercent alone would let
	// it grow to four times that.
	debug.SetMemoryLimit(2*size + 256<<20)
	return size
}

// connections lowers how many connections and streams there may be to what the
// file descriptors of the process allow, so that one too many is refused in words
// and the store keeps its own. Streams are the first to give way, down to a
// quarter of what there is.
func connections(most, streams int, logger *slog.Logger) (int, int) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > math.MaxInt32 {
		return most, streams
	}
	room := max(4, int(limit.Cur)-server.Descriptors)
	if room >= most+streams {
		return most, streams
	}
	asked := most
	most = min(most, room-min(streams, room/4))
	streams = room - most
	if most < asked {
		logger.Warn("the limit of open files allows fewer connections", "files", limit.Cur, "connections", most, "streams", streams)
	}
	return most, streams
}
