package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// timeout is how long an answer may take before it counts as lost.
const timeout = 30 * time.Second

// Answer is what came back for one request.
type Answer struct {
	Status    int
	Header    http.Header
	Body      []byte    // valid until the next request
	FirstByte time.Time // when the head of the answer was there
}

// conn is one HTTP/1.1 connection that is kept alive, used by one goroutine.
//
// The generator shares the machine with the server, and what it burns is
// missing there. http.Client costs 20 µs of CPU for a request, half of them for
// the two goroutines that it runs for a connection; writing a request that is
// ready and reading the answer with http.ReadResponse costs 11, as does fasthttp;
// a parser made for the purpose would cost 9.
type conn struct {
	target *url.URL
	net    net.Conn
	r      *bufio.Reader
	body   []byte
	until  time.Time // the deadline that is set
}

// open connects, unless the connection still stands.
func (c *conn) open(ctx context.Context) (err error) {
	if c.net != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if c.target.Scheme == "https" {
		d := tls.Dialer{Config: &tls.Config{NextProtos: []string{"http/1.1"}}}
		c.net, err = d.DialContext(ctx, "tcp", hostPort(c.target, "443"))
	} else {
		c.net, err = new(net.Dialer).DialContext(ctx, "tcp", hostPort(c.target, "80"))
	}
	if err != nil {
		c.net = nil // not a nil pointer in an interface
		return err
	}
	c.r = bufio.NewReaderSize(c.net, 16<<10)
	c.until = time.Time{}
	return nil
}

func hostPort(u *url.URL, port string) string {
	if u.Port() != "" {
		port = u.Port()
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func (c *conn) close() {
	if c.net != nil {
		c.net.Close()
		c.net = nil
	}
}

// ask sends a request and reads the answer to its end. After an error the
// connection is gone, and whether the request was carried out is not known.
func (c *conn) ask(request []byte) (*Answer, error) {
	answer, last, err := c.exchange(request)
	if err != nil || last {
		c.close()
	}
	return answer, err
}

// exchange is ask; last tells that the connection must not be used again.
func (c *conn) exchange(request []byte) (answer *Answer, last bool, err error) {
	// To set a deadline takes as long as a look-up in the server; once a second
	// is exact enough.
	if now := time.Now(); c.until.Sub(now) < timeout {
		c.until = now.Add(timeout + time.Second)
		if err := c.net.SetDeadline(c.until); err != nil {
			return nil, true, err
		}
	}
	if _, err := c.net.Write(request); err != nil {
		return nil, true, err
	}
	response, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, true, err
	}
	answer = &Answer{Status: response.StatusCode, Header: response.Header, FirstByte: time.Now()}
	c.body, err = readAll(response.Body, c.body[:0])
	answer.Body = c.body
	return answer, response.Close, err
}

// readAll is io.ReadAll into a buffer that is used again.
func readAll(r io.Reader, b []byte) ([]byte, error) {
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}
