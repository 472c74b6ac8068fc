package main_test

// Transcripts are conversations with the real server, written down to be read. Each file in testdata/transcripts
// begins with an empty store and a server that listens on it, and is played from top to bottom:
//
//	# says why
//	> POST /v1/sync?lastMutationAt=-1       what is sent: a request line,
//	> Content-Type: application/json        headers,
//	>                                       and after an empty line
//	> {"mutations":[]}                      the body
//	< 200 OK                                what must come back, in the same form
//	< X-Mutation-At: -1
//	<
//	< {"success":true,"data":{"lastMutationAt":-1,"mutations":[]}}
//
// Bodies are exact to the byte, but for three things. Where a line is broken is for the reader only: the lines of a
// body are put together without their indentation. Times, ids and tokens of this run have names, see names. And a last
// line "..." stands for whatever follows. In a body that is sent, \xff is that byte, and a line that begins with
// "{3 times} " stands for three of what follows.
//
// Headers are exact, too: all that an answer has are shown, except those that every answer must have (see routine). How
// long a bucket takes to refill is shown as {seconds}.
//
// A line that begins with "!" does something else than ask:
//
//	! stop      ends the server with SIGTERM, which must succeed
//	! kill      ends it with SIGKILL
//	! start     starts it again on the same store, with the flags that follow, if there are any
//	! check     lets `tidemark check` judge the store of a server that has ended
//	! token     makes a token with the flags that follow: the next of {token1}, {token2} …
//	! revoke    revokes the token that follows
//	! lose      loses the answer to the next request: it is applied, and nobody reads what comes back
//
// After the last line the server is killed and started again, stopped, and its store checked.
//
//	go test ./cmd/tidemark -run Transcripts -rewrite
//
// writes the answers anew. Commit only what you can explain.

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"tidemark/store/storetest"
)

var rewrite = flag.Bool("rewrite", false, "write the answers of the transcripts anew instead of comparing them")

func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			played := play(t, file, parse(string(text)))
			if *rewrite && !t.Failed() {
				if err := os.WriteFile(file, []byte(played), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// block is a run of lines of one kind: '>' is sent, '<' comes back, '!' is done, '#' is for the reader.
type block struct {
	kind  byte
	at    int      // the number of its first line
	lines []string // without the mark, except those for the reader
}

// parse cuts a transcript into its blocks.
func parse(text string) (blocks []block) {
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		kind := byte('#')
		if line != "" && strings.IndexByte("><!", line[0]) >= 0 {
			kind = line[0]
			line = strings.TrimPrefix(line[1:], " ")
		}
		if len(blocks) == 0 || blocks[len(blocks)-1].kind != kind {
			blocks = append(blocks, block{kind: kind, at: i + 1})
		}
		last := &blocks[len(blocks)-1]
		last.lines = append(last.lines, line)
	}
	return blocks
}

// String returns the block as the file has it.
func (b block) String() string {
	var s strings.Builder
	for _, line := range b.lines {
		if b.kind != '#' {
			line = strings.TrimRight(string(b.kind)+" "+line, " ")
		}
		s.WriteString(line + "\n")
	}
	return s.String()
}

// player plays one transcript.
type player struct {
	testing.TB
	dir    string
	store  string
	flags  []string // of the server
	server *process
	names  *names
	lose   bool // the next answer is lost
}

// play plays a transcript and returns it with the answers that really came.
func play(t *testing.T, file string, blocks []block) string {
	p := &player{TB: t, dir: t.TempDir(), store: storetest.URL(t), names: newNames(fmt.Sprint(time.Now().UnixMilli()))}
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(testdata, filepath.Join(p.dir, "testdata")); err != nil {
		t.Fatal(err)
	}
	p.start()
	var played strings.Builder
	for i, b := range blocks {
		if b.kind != '<' {
			played.WriteString(b.String())
		}
		at := fmt.Sprintf("%s:%d", file, b.at)
		switch b.kind {
		case '!':
			for _, line := range b.lines {
				p.do(at, line)
			}
		case '<':
			if i == 0 || blocks[i-1].kind != '>' {
				t.Fatalf("%s: an answer to nothing", at)
			}
		case '>':
			var want block
			if i+1 < len(blocks) && blocks[i+1].kind == '<' {
				want = blocks[i+1]
			}
			request, err := p.request(b.lines)
			if err != nil {
				t.Fatalf("%s: %v", at, err)
			}
			p.waitForTheClock()
			if p.lose {
				p.sendAndForget(request)
				continue
			}
			got := p.send(at, request, want.lines)
			answer := block{kind: '<', lines: got}
			if slices.Equal(fold(want.lines), fold(cut(got, want.lines))) {
				answer = want // keeps the line breaks of the author, and "..."
			} else if !*rewrite {
				t.Errorf("%s: %s\nexpected:\n%s\nanswered:\n%s", at, b.lines[0], want, answer)
			}
			played.WriteString(answer.String())
		}
	}
	p.server.kill(t)
	p.start()
	p.server.stop(t)
	check(t, p.dir, p.store)
	return played.String()
}

func (p *player) start() { p.server = serve(p, p.dir, append(p.flags, "--store", p.store)...) }

// do carries out a line that begins with "!".
func (p *player) do(at, line string) {
	words := strings.Fields(line)
	switch words[0] {
	case "stop":
		p.server.stop(p)
	case "kill":
		p.server.kill(p)
	case "start":
		p.flags = words[1:]
		p.start()
	case "check":
		check(p, p.dir, p.store)
	case "token":
		p.names.token(strings.TrimSpace(p.tool(at, append([]string{"token", "create"}, words[1:]...)...)))
	case "revoke":
		token, err := p.names.show(words[1])
		if err != nil {
			p.Fatalf("%s: %v", at, err)
		}
		p.tool(at, "token", "revoke", strings.Split(token, "_")[1])
	case "lose":
		p.lose = true
	default:
		p.Fatalf("%s: cannot do %q", at, line)
	}
}

// tool runs a command on the store, which must succeed, and returns what it prints.
func (p *player) tool(at string, args ...string) string {
	out, err := command(p, p.dir, append(args, "--store", p.store)...).Output()
	if err != nil {
		p.Fatalf("%s: %v: %v", at, args, err)
	}
	return string(out)
}

// request turns the lines of a transcript into the bytes to send.
func (p *player) request(lines []string) ([]byte, error) {
	lines = slices.Clone(lines)
	for i := range lines {
		var err error
		if lines[i], err = p.names.show(lines[i]); err != nil {
			return nil, err
		}
	}
	head, body := headAndBody(lines)
	var wire bytes.Buffer
	fmt.Fprintf(&wire, "%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n", head[0], p.server.addr)
	for _, header := range head[1:] {
		fmt.Fprintf(&wire, "%s\r\n", header)
	}
	payload := assemble(body)
	if len(body) > 0 {
		fmt.Fprintf(&wire, "Content-Length: %d\r\n", len(payload))
	}
	fmt.Fprintf(&wire, "\r\n%s", payload)
	return wire.Bytes(), nil
}

var (
	times   = regexp.MustCompile(`^\{([0-9]+) times\} (.*)$`)
	oneByte = regexp.MustCompile(`\\x[0-9a-f]{2}`)
)

// assemble puts the lines of a body together.
func assemble(lines []string) string {
	var body strings.Builder
	for _, line := range lines {
		line = strings.TrimSpace(line)
		count := 1
		if m := times.FindStringSubmatch(line); m != nil {
			count, _ = strconv.Atoi(m[1])
			line = m[2]
		}
		body.WriteString(strings.Repeat(line, count))
	}
	return oneByte.ReplaceAllStringFunc(body.String(), func(escaped string) string {
		b, _ := strconv.ParseUint(escaped[2:], 16, 8)
		return string([]byte{byte(b)})
	})
}

// waitForTheClock returns when the clock has passed every time seen. Else two users could get the same time, and that
// would have one name.
func (p *player) waitForTheClock() {
	for time.Now().UnixMilli() <= p.names.highest {
		time.Sleep(time.Millisecond)
	}
}

// send sends a request and returns the answer as a transcript shows it. The headers that the expected answer shows
// are shown even if they are routine.
func (p *player) send(at string, request []byte, want []string) []string {
	conn := p.dial()
	defer conn.Close()
	go conn.Write(request) // a server that refuses early need not read it all
	method, _, _ := strings.Cut(string(request), " ")
	answer, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		p.Fatalf("%s: no answer: %v", at, err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		p.Fatalf("%s: half an answer: %v", at, err)
	}
	body = p.unpack(at, answer.Header.Get("Content-Encoding"), body)

	head, _ := headAndBody(want)
	lines := []string{fmt.Sprintf("%d %s", answer.StatusCode, http.StatusText(answer.StatusCode))}
	for _, name := range slices.Sorted(maps.Keys(answer.Header)) {
		for _, value := range answer.Header[name] {
			isShown := func(line string) bool { return strings.HasPrefix(line, name+":") }
			if !routine(name, value) || slices.ContainsFunc(head, isShown) {
				if value = refill.ReplaceAllString(value, ";t={seconds}"); answer.StatusCode == 429 && name == "Retry-After" {
					value = "{seconds}"
				}
				lines = append(lines, spelling.Replace(name)+": "+value)
			}
		}
	}
	for _, name := range []string{"Cache-Control", "X-Content-Type-Options", "X-Request-Id"} {
		if answer.Header.Get(name) == "" {
			p.Errorf("%s: the answer has no header %s", at, name)
		}
	}
	if len(body) > 0 {
		lines = append(lines, "")
		lines = append(lines, p.layout(at, answer.Header.Get("Content-Type"), string(body))...)
	}
	return strings.Split(p.names.hide(strings.Join(lines, "\n")), "\n")
}

// spelling puts the names of headers as documents have them.
var spelling = strings.NewReplacer("Etag", "ETag", "Www-", "WWW-", "Ratelimit", "RateLimit")

// refill finds how long a bucket takes to refill, in RateLimit.
var refill = regexp.MustCompile(`;t=[0-9]+$`)

var ulidForm = regexp.MustCompile(`^[0-7][0-9A-HJKMNP-TV-Z]{25}$`)

// routine tells whether a header is one that goes without saying.
func routine(name, value string) bool {
	switch name {
	case "Date", "Content-Length", "Connection", "Vary":
		return true
	case "Cache-Control":
		return value == "no-store"
	case "Content-Type":
		return value == "application/json"
	case "X-Content-Type-Options":
		return value == "nosniff"
	case "X-Request-Id":
		return ulidForm.MatchString(value)
	}
	return false
}

// layout breaks a body into lines: text where it is broken, JSON where it reads well. JSON must come as one line
// without white space between its tokens; the line breaks here are for the reader.
func (p *player) layout(at, contentType, body string) []string {
	if !strings.Contains(contentType, "json") {
		return strings.Split(strings.TrimRight(body, "\n"), "\n")
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(body)); err != nil || compact.String()+"\n" != body {
		p.Errorf("%s: the answer is not one line of compact JSON (%v): %q", at, err, body)
	}
	body = strings.TrimSuffix(body, "\n")
	broken := readable.Replace(body)
	return strings.Split(broken, "\n")
}

// readable breaks JSON around the objects of an array and before the members that make an error long.
var readable = strings.NewReplacer("[{", "[\n  {", "},{", "},\n  {", "}]", "}\n]",
	`,"error":{`, ",\n  \"error\":{", `,"details":{`, ",\n  \"details\":{",
	`,"client":{`, ",\n   \"client\":{", `,"server":{`, ",\n   \"server\":{", `,"fields":`, ",\n   \"fields\":")

// unpack undoes the compression of a body.
func (p *player) unpack(at, encoding string, body []byte) []byte {
	packed := bytes.NewReader(body)
	unpacked, err := io.Reader(packed), error(nil)
	switch encoding {
	case "gzip":
		unpacked, err = gzip.NewReader(packed)
	case "zstd":
		unpacked, err = zstd.NewReader(packed)
	}
	if err == nil {
		body, err = io.ReadAll(unpacked)
	}
	if err != nil {
		p.Fatalf("%s: %v", at, err)
	}
	return body
}

// sendAndForget sends a push, waits until it is applied, and hangs up without reading the answer.
func (p *player) sendAndForget(request []byte) {
	p.lose = false
	poll := "GET /v1/sync?mutationsSince=0&metadataOnly=true HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
	if user := regexp.MustCompile(`(?i)\r\nX-User-Id: [^\r]*`).Find(request); user != nil {
		poll += string(user[2:]) + "\r\n"
	}
	head := func() string {
		conn := p.dial()
		defer conn.Close()
		fmt.Fprintf(conn, "%s\r\n", poll)
		answer, _ := io.ReadAll(conn)
		return string(regexp.MustCompile(`"lastMutationAt":[0-9-]+`).Find(answer))
	}
	before := head()
	conn := p.dial()
	defer conn.Close()
	if _, err := conn.Write(request); err != nil {
		p.Fatal(err)
	}
	waitFor(p, "the push whose answer gets lost", func() bool { return head() != before })
	p.names.highest = max(p.names.highest, time.Now().UnixMilli()+100) // its time, unseen, is earlier than that
}

func (p *player) dial() net.Conn {
	conn, err := net.Dial("tcp", p.server.addr)
	if err != nil {
		p.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// headAndBody splits a message at its first empty line.
func headAndBody(lines []string) (head, body []string) {
	if i := slices.Index(lines, ""); i >= 0 {
		return lines[:i], lines[i+1:]
	}
	return lines, nil
}

// fold undoes the line breaks of a body.
func fold(lines []string) []string {
	head, body := headAndBody(lines)
	var folded strings.Builder
	for _, line := range body {
		folded.WriteString(strings.TrimSpace(line))
	}
	return append(slices.Clone(head), folded.String())
}

// cut ends an answer where the expected one says "...".
func cut(got, want []string) []string {
	if n := len(want) - 1; n >= 0 && want[n] == "..." && len(got) > n {
		return append(slices.Clone(got[:n]), "...")
	}
	return got
}
