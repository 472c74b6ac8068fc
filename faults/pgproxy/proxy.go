// Package pgproxy stands between a client and a PostgreSQL server, understands
// as much of what the client says as is needed to know which statement it runs,
// and does to each what the test wants: lets it through, lets it fail, or cuts
// the connection before the server has heard of it or before the client has
// heard of its end.
package pgproxy

import (
	"net"
	"sync"
)

// Verdict is what becomes of a statement.
type Verdict struct {
	cut  string
	code string
}

// The verdicts, beside Fail.
var (
	// Pass lets the statement through.
	Pass = Verdict{}

	// CutBefore cuts the connection instead: the server never hears of the
	// statement, and rolls its transaction back.
	CutBefore = Verdict{cut: "before"}

	// CutAfter lets the server run the statement to its end and cuts the
	// connection: the client never hears of its outcome.
	CutAfter = Verdict{cut: "after"}
)

// Fail makes the statement fail with a SQLSTATE of five characters; the server
// aborts its transaction.
func Fail(code string) Verdict { return Verdict{code: code} }

// Statement is what a client runs.
type Statement struct {
	SQL string

	// Of is the statement that began the transaction, which may be this one; ""
	// where none did.
	Of string
}

// Proxy accepts connections on a loopback port.
type Proxy struct {
	listener net.Listener
	network  string
	server   string

	mu    sync.Mutex
	judge func(Statement) Verdict
	open  map[net.Conn]bool
}

// New returns a proxy of the server at an address: "unix" and the path of its
// socket, or "tcp" and host:port.
func New(network, server string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l, network: network, server: server, open: map[net.Conn]bool{}}
	go p.accept()
	return p, nil
}

// Addr is the host:port to connect to.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Judge makes judge decide on each statement from now on; nil lets all through.
// It is called by one connection at a time. The end of an implicit transaction,
// which no statement stands for, is "SYNC"; it can be cut, but not fail by itself.
func (p *Proxy) Judge(judge func(Statement) Verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judge = judge
}

// Close cuts all connections and takes no more.
func (p *Proxy) Close() {
	p.listener.Close()
	p.Cut()
}

// Cut cuts all connections.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.open {
		c.Close()
	}
}

func (p *Proxy) verdict(s Statement) Verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.judge == nil {
		return Pass
	}
	return p.judge(s)
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial(p.network, p.server)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.open[client], p.open[server] = true, true
		p.mu.Unlock()
		go p.carry(client, server)
	}
}

// carry carries one connection to its end.
func (p *Proxy) carry(client, server net.Conn) {
	s := newSession(p, client, server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.answers()
		client.Close()
	}()
	if s.requests() {
		client.Close()
	} else {
		server.Close()
	}
	<-done
	server.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, client)
	delete(p.open, server)
}
