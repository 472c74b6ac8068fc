package store

import (
	"context"
	"encoding/base64"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"tidemark/mutlog"
)

// channel is the channel of all notifications. Each is the name of the process
// that sends it, and a line for each log: its user in base64, a space and its
// head. One that has no lines is a probe.
const channel = "tidemark"

// A notification has less than maxNotification bytes, and there are at most one
// in notifyEvery, so that they cost little however many pushes there are.
const (
	maxNotification = 7500 // PostgreSQL takes less than 8000
	notifyEvery     = 5 * time.Millisecond
)

// What cannot be sent, because a connection was cut say, is tried again a few
// times.
const (
	notifyTries = 3
	notifyPause = 100 * time.Millisecond
)

// notifier gathers the heads that other processes are to be told.
type notifier struct {
	mu    sync.Mutex
	heads map[mutlog.User]mutlog.Timestamp
	some  chan struct{} // holds one if there are heads
}

// announce makes known that the log of user has a new head, which is durable.
func (s *Postgres) announce(user mutlog.User, head mutlog.Timestamp) {
	s.tell(user, head)
	n := &s.notifier
	n.mu.Lock()
	defer n.mu.Unlock()
	n.heads[user] = max(head, n.heads[user])
	select {
	case n.some <- struct{}{}:
	default:
	}
}

func (n *notifier) take() map[mutlog.User]mutlog.Timestamp {
	n.mu.Lock()
	defer n.mu.Unlock()
	heads := n.heads
	n.heads = map[mutlog.User]mutlog.Timestamp{}
	return heads
}

// notify sends what there is to tell, until the store is closed.
func (s *Postgres) notify() {
	for {
		select {
		case <-s.notifier.some:
		case <-s.closing.Done():
			return
		}
		s.keepSending(notifications(s.process, s.notifier.take()))
		select {
		case <-time.After(notifyEvery):
		case <-s.closing.Done():
		}
	}
}

// keepSending sends texts, or drops them where that fails each time: others look
// for themselves now and then.
func (s *Postgres) keepSending(texts []string) {
	for range notifyTries {
		if s.sendNotifications(s.closing, texts) == nil {
			return
		}
		select {
		case <-time.After(notifyPause):
		case <-s.closing.Done():
			return
		}
	}
}

// sendNotifications sends texts, in one transaction that waits for no disk.
func (s *Postgres) sendNotifications(ctx context.Context, texts []string) error {
	conn, err := s.acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	b := &pgx.Batch{}
	b.Queue(`BEGIN`)
	b.Queue(`SET LOCAL synchronous_commit = off`)
	for _, text := range texts {
		b.Queue(`SELECT pg_notify($1, $2)`, channel, text)
	}
	b.Queue(`COMMIT`)
	return s.exchange(ctx, conn, b) // where it fails, the pool closes the connection
}

// notifications are the texts that tell of heads.
func notifications(process string, heads map[mutlog.User]mutlog.Timestamp) (texts []string) {
	text := process
	for user, head := range heads {
		line := "\n" + base64.RawStdEncoding.EncodeToString([]byte(user)) + " " + strconv.FormatInt(int64(head), 10)
		if len(text)+len(line) > maxNotification {
			texts, text = append(texts, text), process
		}
		text += line
	}
	return append(texts, text)
}

// hear tells followers what a notification says, unless it is of this process.
// It returns whether it is a probe of this process.
func (s *Postgres) hear(text string) (probe bool) {
	process, lines, _ := strings.Cut(text, "\n")
	if process == s.process {
		return lines == ""
	}
	for line := range strings.SplitSeq(lines, "\n") {
		name, number, _ := strings.Cut(line, " ")
		user, err := base64.RawStdEncoding.DecodeString(name)
		head, err2 := strconv.ParseInt(number, 10, 64)
		if err == nil && err2 == nil {
			s.tell(mutlog.User(user), mutlog.Timestamp(head))
		}
	}
	return false
}
