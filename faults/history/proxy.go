package history

import (
	"bytes"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// proxy stands between the devices and the server and loses what they say: it
// cuts connections before or within a request, and, once the server has
// answered, before or within the answer (F25, F26).
type proxy struct {
	listener net.Listener
	backend  atomic.Value // string: the address of the server
	open     atomic.Int64 // connections to the server
	newest   atomic.Value // string: the address of the device that came last

	mu   sync.Mutex
	rand *rand.Rand
	loss loss

	lostAnswers, lostRequests atomic.Int64 // of pushes
}

// loss is how often something is lost, as probabilities.
type loss struct{ request, pushAnswer, pullAnswer float64 }

func newProxy() (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, rand: rand.New(rand.NewPCG(0, 0))}
	go p.accept()
	return p, nil
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

// begin sets what is lost from now on.
func (p *proxy) begin(seed uint64, l loss) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rand, p.loss = rand.New(rand.NewPCG(seed, 1)), l
}

// quiet waits until every connection to the server has ended, and with it all
// that the server had been asked to do. Nobody may connect meanwhile.
func (p *proxy) quiet(timeout time.Duration) bool {
	probe, err := net.Dial("tcp", p.addr()) // it is accepted behind all that wait
	if err != nil {
		return false
	}
	probe.Close()
	for end := time.Now().Add(timeout); time.Now().Before(end); time.Sleep(200 * time.Microsecond) {
		if p.newest.Load() == probe.LocalAddr().String() && p.open.Load() == 0 {
			return true
		}
	}
	return false
}

// lose decides how many of n bytes get through before a connection is cut.
func (p *proxy) lose(probability func(loss) float64, n int) (through int, lost bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rand.Float64() >= probability(p.loss) {
		return n, false
	}
	if p.rand.IntN(2) == 0 {
		return 0, true
	}
	return p.rand.IntN(n), true
}

func (p *proxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.open.Add(1)
		p.newest.Store(c.RemoteAddr().String())
		go p.serve(c.(*net.TCPConn))
	}
}

// serve carries one connection.
func (p *proxy) serve(device *net.TCPConn) {
	defer p.open.Add(-1)
	defer device.Close()
	c, err := net.Dial("tcp", p.backend.Load().(string))
	if err != nil {
		return
	}
	server := c.(*net.TCPConn)
	defer server.Close()
	var pushing atomic.Bool // the request under way is a push
	go p.requests(server, device, &pushing)
	p.answers(device, server, &pushing)
}

// requests passes on what the device says, and its end: the server then ends
// the connection once it has done what it was asked.
func (p *proxy) requests(server, device *net.TCPConn, pushing *atomic.Bool) {
	defer server.CloseWrite()
	buf := make([]byte, 64<<10)
	for {
		n, err := device.Read(buf)
		if err != nil {
			return
		}
		if push := bytes.HasPrefix(buf[:n], []byte("POST ")); push || bytes.HasPrefix(buf[:n], []byte("GET ")) {
			pushing.Store(push)
		}
		through, lost := p.lose(func(l loss) float64 { return l.request }, n)
		if _, err := server.Write(buf[:through]); err != nil {
			return
		}
		if lost {
			if pushing.Load() {
				p.lostRequests.Add(1)
			}
			device.Close()
			return
		}
	}
}

// answers passes on what the server says. It reads to the end even if nobody
// listens any more.
func (p *proxy) answers(device, server *net.TCPConn, pushing *atomic.Bool) {
	buf := make([]byte, 64<<10)
	for gone := false; ; {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if gone {
			continue
		}
		push := pushing.Load()
		through, lost := p.lose(func(l loss) float64 {
			if push {
				return l.pushAnswer
			}
			return l.pullAnswer
		}, n)
		if _, err := device.Write(buf[:through]); err != nil {
			gone = true
		}
		if lost {
			if push {
				p.lostAnswers.Add(1)
			}
			device.Close()
			gone = true
		}
	}
}
