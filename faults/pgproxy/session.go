package pgproxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"regexp"
	"strings"
	"sync/atomic"
)

// The messages of the protocol that matter here, see "Message Formats" in
// PostgreSQL's manual: a type, a length that counts itself, a body. The first
// message of a client has no type.
const (
	bind          = 'B'
	execute       = 'E'
	parse         = 'P'
	query         = 'Q'
	syncMessage   = 'S'
	terminate     = 'X'
	errorResponse = 'E'
)

// The first messages of a client that ask for something else than a session.
const (
	sslRequest = 80877103
	gssRequest = 80877104
)

// session is one connection.
type session struct {
	proxy      *Proxy
	client     net.Conn
	server     net.Conn
	fromClient *bufio.Reader
	toServer   *bufio.Writer

	statements map[string]string // by name, "" is the unnamed one
	portals    map[string]string // their statements' text
	begun      string            // the statement that began the transaction that is open; "" if none did
	written    bool              // since the last Sync something was executed

	mute atomic.Bool // the client hears no more
}

func newSession(p *Proxy, client, server net.Conn) *session {
	return &session{proxy: p, client: client, server: server,
		fromClient: bufio.NewReader(client), toServer: bufio.NewWriter(server),
		statements: map[string]string{}, portals: map[string]string{}}
}

// message is one message, with its type and length.
type message []byte

func (m message) kind() byte   { return m[0] }
func (m message) body() []byte { return m[5:] }

func newMessage(kind byte, body []byte) message {
	m := append(message{kind}, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(m[1:], uint32(len(body)+4))
	return append(m, body...)
}

// readMessage reads a message with a type.
func readMessage(r *bufio.Reader) (message, error) {
	head, err := r.Peek(5)
	if err != nil {
		return nil, err
	}
	m := make(message, 1+binary.BigEndian.Uint32(head[1:]))
	_, err = io.ReadFull(r, m)
	return m, err
}

// hello passes on the first message of the client.
func (s *session) hello() error {
	for {
		head, err := s.fromClient.Peek(8)
		if err != nil {
			return err
		}
		first := make([]byte, binary.BigEndian.Uint32(head))
		if _, err := io.ReadFull(s.fromClient, first); err != nil {
			return err
		}
		switch binary.BigEndian.Uint32(first[4:]) {
		case sslRequest, gssRequest:
			if _, err := s.client.Write([]byte{'N'}); err != nil { // in the clear, please
				return err
			}
			continue
		}
		_, err = s.server.Write(first)
		return err
	}
}

// requests passes on what the client says until its end. finishing tells that
// the server still has to finish what it was told, although the client hears no
// more.
func (s *session) requests() (finishing bool) {
	if s.hello() != nil {
		return false
	}
	for {
		m, err := readMessage(s.fromClient)
		if err != nil {
			return false
		}
		verdict := Pass
		if statement, ok := s.statement(m); ok {
			verdict = s.proxy.verdict(statement)
		}
		switch {
		case verdict == CutBefore:
			return false
		case verdict == CutAfter:
			s.mute.Store(true)
			s.toServer.Write(m)
			if m.kind() != query && m.kind() != syncMessage {
				s.toServer.Write(newMessage(syncMessage, nil))
			}
			s.toServer.Write(newMessage(terminate, nil))
			return s.toServer.Flush() == nil
		case verdict.code != "":
			m = failing(m, verdict.code)
		}
		s.toServer.Write(m)
		if s.fromClient.Buffered() == 0 {
			if s.toServer.Flush() != nil {
				return false
			}
		}
	}
}

// statement notes what m says, and returns the statement that it runs, if it
// runs one.
func (s *session) statement(m message) (statement Statement, ok bool) {
	var sql string
	switch body := m.body(); m.kind() {
	case query:
		sql, _ = text(body)
	case parse:
		name, rest := text(body)
		s.statements[name], _ = text(rest)
		return Statement{}, false
	case bind:
		portal, rest := text(body)
		name, _ := text(rest)
		s.portals[portal] = s.statements[name]
		return Statement{}, false
	case execute:
		portal, _ := text(body)
		sql = s.portals[portal]
	case syncMessage:
		ends := s.written && s.begun == ""
		s.written = false
		return Statement{SQL: "SYNC"}, ends
	default:
		return Statement{}, false
	}
	of := s.begun
	switch word, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(sql)), " "); word {
	case "begin", "start":
		s.begun, of = sql, sql
	case "commit", "end", "rollback", "abort":
		s.begun = ""
	default:
		s.written = m.kind() != query
	}
	return Statement{SQL: sql, Of: of}, true
}

// text reads a string that ends with a NUL.
func text(b []byte) (string, []byte) {
	s, rest, _ := bytes.Cut(b, []byte{0})
	return string(s), rest
}

// What does not exist on the server is named by the error that it shall give.
const faultPrefix = "pgproxy_fault_"

var fault = regexp.MustCompile(faultPrefix + `(\w{5})`)

// failing turns a message that runs a statement into one that the server must
// refuse, with the transaction aborted as by any error.
func failing(m message, code string) message {
	switch m.kind() {
	case query:
		return newMessage(query, []byte("EXECUTE "+faultPrefix+code+"\x00"))
	case execute:
		return newMessage(execute, []byte(faultPrefix+code+"\x00\x00\x00\x00\x00"))
	}
	return m // a Sync cannot fail by itself
}

// answers passes on what the server says until its end.
func (s *session) answers() {
	in, out := bufio.NewReader(s.server), bufio.NewWriter(s.client)
	for { // to the end, even if the client is gone

		m, err := readMessage(in)
		if err != nil {
			return
		}
		if m.kind() == errorResponse {
			if code := fault.FindSubmatch(m); code != nil {
				m = failure(string(code[1]))
			}
		}
		if s.mute.Load() {
			continue
		}
		out.Write(m)
		if in.Buffered() == 0 && out.Flush() != nil {
			s.mute.Store(true)
		}
	}
}

// failure is the error that the client gets.
func failure(code string) message {
	var body []byte
	for _, field := range []string{"SERROR", "VERROR", "C" + code, "Mput in by the test"} {
		body = append(append(body, field...), 0)
	}
	return newMessage(errorResponse, append(body, 0))
}
