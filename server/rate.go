package server

import (
	"errors"
	"hash/maphash"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"tidemark/auth"
	"tidemark/mutlog"
)

// Rate is how often one client may do something: it has a bucket of Requests,
// which is full at first and refills within Window. The zero Rate is no bound.
type Rate struct {
	Requests int
	Window   time.Duration
}

// UnmarshalText reads a rate like "500/10s", or "0" for none.
func (r *Rate) UnmarshalText(text []byte) error {
	*r = Rate{}
	if string(text) == "0" {
		return nil
	}
	requests, window, _ := strings.Cut(string(text), "/")
	var err, err2 error
	r.Requests, err = strconv.Atoi(requests)
	r.Window, err2 = time.ParseDuration(window)
	if err != nil || err2 != nil || r.Requests < 1 || r.Requests > 1e9 || r.Window < time.Second || r.Window > 24*time.Hour {
		return errors.New("a rate is requests/time like 500/10s, of at least 1 and from 1s to 24h, or 0 for no bound")
	}
	return nil
}

// Rates bound how often clients may ask.
type Rates struct {
	User   Rate // of each user, once it is known who asks
	Peer   Rate // of each address, before that; of IPv6 each /64
	Failed Rate // of each address, of requests whose authentication fails

	// Exempt are the addresses that may ask as often as they like.
	Exempt []netip.Prefix
}

// rateError refuses a request that is one too many.
type rateError struct {
	limit string // which one
	after time.Duration
}

func (e *rateError) Error() string { return "Too many requests, please try again later" }

// retryAfter is how many whole seconds to wait.
func (e *rateError) retryAfter() int64 { return max(1, int64(math.Ceil(e.after.Seconds()))) }

// throttle holds the buckets of everybody.
type throttle struct {
	users, peers, failures *limiter // nil for no bound
	exempt                 []netip.Prefix
	seed                   maphash.Seed
	started                time.Time
	told                   atomic.Bool // of a proxy that is not trusted
}

func newThrottle(r Rates) *throttle {
	return &throttle{
		users:    newLimiter("user", r.User),
		peers:    newLimiter("address", r.Peer),
		failures: newLimiter("authentication", r.Failed),
		exempt:   r.Exempt,
		seed:     maphash.MakeSeed(),
		started:  time.Now(),
	}
}

// now is the time that the buckets go by, which no clock that is set can turn.
func (t *throttle) now() int64 { return int64(time.Since(t.started)) }

// hashOf returns the hash of the address of a client, or of the network that
// surely is one client's: who has one address of an IPv6 /64 has them all.
func (t *throttle) hashOf(addr netip.Addr) uint64 {
	if addr.Is6() {
		network, _ := addr.Prefix(64)
		addr = network.Addr()
	}
	key := addr.As16()
	return maphash.Bytes(t.seed, key[:])
}

// noticeProxy says once that there seems to be a proxy whose word is not taken,
// so that its clients are counted as one, or not at all.
func (s *Server) noticeProxy(r *http.Request, addr netip.Addr) {
	if len(r.Header["X-Forwarded-For"])+len(r.Header["Forwarded"]) == 0 || !addr.IsLoopback() && !addr.IsPrivate() || s.throttle.told.Swap(true) {
		return
	}
	s.Logger.Warn("a proxy that is not trusted hides its clients; if it is yours, list it in --trusted-proxies", "peer", addr.String())
}

// visitor is one request as the throttle sees it.
type visitor struct {
	*throttle
	c      echo.Context
	exempt bool
	hash   uint64 // of its address
}

func (s *Server) visitor(c echo.Context) visitor {
	t := s.throttle
	if t.users == nil && t.peers == nil && t.failures == nil {
		return visitor{exempt: true}
	}
	addr := s.Proxies.ofRequest(c.Request())
	s.noticeProxy(c.Request(), addr)
	return visitor{t, c, within(t.exempt, addr), t.hashOf(addr)}
}

// arrives counts a request of an address, before anything is known of it. One
// that has failed too often to authenticate is not let try again, whatever it
// brings this time.
func (v *visitor) arrives() error {
	if v.exempt {
		return nil
	}
	if v.failures != nil {
		if after := v.failures.wait(v.hash, v.now()); after > 0 {
			return v.refuse(v.failures, after)
		}
	}
	return v.count(v.peers, v.hash)
}

// paced counts the requests of an address before handler runs.
func (s *Server) paced(handler echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		v := s.visitor(c)
		if err := v.arrives(); err != nil {
			return err
		}
		return handler(c)
	}
}

// fails counts a request whose authentication has failed.
//
// A ticket that is used up does not count: browsers come back with it by
// themselves, and nobody guesses one.
func (v *visitor) fails(why error) {
	if !v.exempt && v.failures != nil && errors.Is(why, auth.ErrUnauthenticated) && !errors.Is(why, auth.ErrInvalidTicket) {
		v.failures.take(v.hash, v.now())
	}
}

// isOf counts a request of a user.
func (v *visitor) isOf(user mutlog.User) error {
	if v.exempt {
		return nil
	}
	return v.count(v.users, maphash.String(v.seed, string(user)))
}

// count takes a request out of a bucket, and tells the client what is left.
func (v *visitor) count(l *limiter, hash uint64) error {
	if l == nil {
		return nil
	}
	left, after := l.take(hash, v.now())
	if left < 0 {
		return v.refuse(l, after)
	}
	l.tell(v.c, left, after)
	return nil
}

func (v *visitor) refuse(l *limiter, after time.Duration) error {
	l.tell(v.c, 0, after)
	return &rateError{l.name, after}
}

// tell sets the header fields of draft-ietf-httpapi-ratelimit-headers-11: which
// bucket this is, how many requests are left in it, and in how many seconds
// there is one more.
func (l *limiter) tell(c echo.Context, left int, after time.Duration) {
	h := c.Response().Header()
	b := append(make([]byte, 0, 40), l.quoted...)
	b = strconv.AppendInt(append(b, ";r="...), int64(left), 10)
	b = strconv.AppendInt(append(b, ";t="...), int64(math.Ceil(after.Seconds())), 10)
	h["Ratelimit"] = []string{string(b)}
	h["Ratelimit-Policy"] = l.policy
}

func newLimiter(name string, r Rate) *limiter {
	if r == (Rate{}) {
		return nil
	}
	quoted := strconv.Quote(name)
	window := int64(math.Ceil(r.Window.Seconds()))
	return &limiter{
		name: name, quoted: quoted,
		policy: []string{quoted + ";q=" + strconv.Itoa(r.Requests) + ";w=" + strconv.FormatInt(window, 10)},
		window: int64(r.Window), interval: max(1, int64(r.Window)/int64(r.Requests)),
		sets: make([]bucketSet, bucketSets),
	}
}
