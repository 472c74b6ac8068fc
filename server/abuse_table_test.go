package server_test

// The table of hostile requests and their exact answers. Those that need tokens, scopes, rates or streams are in
// auth_test.go, scopes_test.go, rate_test.go and events_test.go, forged JWTs in auth/jwt_test.go.

import (
	"fmt"
	"strings"
)

// abuse is one hostile request, or several on one connection.
type abuse struct {
	name string
	raw  string
	want string // "422 ValidationError", "400" in the plain text of net/http, or "" for no answer at all

	message string // of the answer, if given
	changes bool   // it is a good one after all, and pushes something
	cut     bool   // it ends too early, so nothing can follow it
}

func get(query string, headers ...string) string {
	return request("GET", "/v1/sync?"+query, "", append(headers, "X-User-Id: full")...)
}

func push(body string, headers ...string) string {
	return request("POST", fmt.Sprintf("/v1/sync?lastMutationAt=%d", fullHead), body, append(headers, "X-User-Id: full")...)
}

// pushQuery is a push of a good note to the log of a user of its own.
func pushQuery(query string, headers ...string) string {
	return request("POST", "/v1/sync?"+query, goodNote, append(headers, "X-User-Id: nobody")...)
}

// raw is a request of which everything is written out.
func raw(lines ...string) string { return strings.Join(lines, "\r\n") + "\r\n\r\n" }

// mutation is a push of one mutation with these members.
func mutation(members string) string { return push(`{"mutations":[{` + members + `}]}`) }

// data is a push of a note with this data.
func data(text string) string {
	return mutation(`"type":"CREATE","resource":"NOTE","resourceId":"x","data":` + text)
}

func each(format string, values ...string) (all []string) {
	for _, v := range values {
		all = append(all, fmt.Sprintf(format, v))
	}
	return all
}

const (
	ir  = "400 InvalidRequestError"
	ve  = "422 ValidationError"
	oos = "409 OutOfSyncError"
	nf  = "404 NotFoundError"
	mna = "405 MethodNotAllowedError"
	umt = "415 UnsupportedMediaTypeError"
	ptl = "413 PayloadTooLargeError"
)

// abuses returns the table.
func abuses() (table []abuse) {
	add := func(name, want string, raws ...string) {
		for i, raw := range raws {
			n := name
			if len(raws) > 1 {
				n = fmt.Sprintf("%s, %d", name, i+1)
			}
			table = append(table, abuse{name: n, raw: raw, want: want})
		}
	}
	says := func(name, want, message string, raw string) {
		table = append(table, abuse{name: name, raw: raw, want: want, message: message})
	}
	good := func(name, raw string) {
		table = append(table, abuse{name: name, raw: raw, want: "200", changes: true})
	}
	cut := func(name, want, raw string) {
		table = append(table, abuse{name: name, raw: raw, want: want, cut: true})
	}
	const line = "GET /v1/sync?mutationsSince=0 HTTP/1.1"

	// The frame of a request.
	add("no Host", "400", raw(line))
	add("two Hosts", "400", raw(line, "Host: a", "Host: b"))
	add("Host with a space", "400", raw(line, "Host: a b"))
	add("Host with a slash and a script", "400", raw("GET / HTTP/1.1", "Host: <script>/</script>"))
	cut("HTTP/1.0 without Host", "200", raw("GET /v1/sync?mutationsSince=0 HTTP/1.0"))
	cut("HTTP/0.9", "400", "GET /v1/sync\r\n")
	add("HTTP/3.0", "505", raw("GET / HTTP/3.0", "Host: a"))
	add("HTTP/2.0 in words", "505", raw("GET / HTTP/2.0", "Host: a"))
	add("HTTP/1.9", "200", raw("GET /livez HTTP/1.9", "Host: a"))
	add("HTTP/1.10", "400", raw("GET /livez HTTP/1.10", "Host: a"))
	cut("a TLS ClientHello", "400", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"+strings.Repeat("\x00", 200))
	cut("the preface of HTTP/2", "505", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
	add("an upgrade to h2c", "200", raw(line, "Host: a", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"))
	add("an upgrade to a web socket", "200", raw(line, "Host: a", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
	cut("no request at all", "400", "\r\n\r\n\r\n\r\n")
	cut("noise", "400", strings.Repeat("\xff\x00\x80", 100)+"\r\n\r\n")
	add("no method", "400", raw(" /v1/sync HTTP/1.1", "Host: a"))
	add("a method that is none", "400", raw("GE(T /v1/sync HTTP/1.1", "Host: a"))
	add("a method with an accent", "400", raw("GÉT /v1/sync HTTP/1.1", "Host: a"))
	add("no version", "400", raw("GET /v1/sync", "Host: a"))
	add("a space too many", "400", raw("GET  /v1/sync HTTP/1.1", "Host: a"))
	add("a space in the target", "400", raw("GET /v1/sync?mutationsSince=0 x HTTP/1.1", "Host: a"))
	add("a control character in the target", "400", raw("GET /v1/sync?mutationsSince=\x01 HTTP/1.1", "Host: a"))
	add("a stray % in the path", "400", raw("GET /v1/%zz HTTP/1.1", "Host: a"))
	add("two Content-Lengths", "400", push(goodNote, "Content-Length: 3", "Content-Length: 4"))
	add("a Content-Length that is none", "400", each("POST /v1/sync?lastMutationAt=-1 HTTP/1.1\r\nHost: a\r\nContent-Length: %s\r\n\r\n{}",
		"-1", "+5", "5a", "0x5", "1e3", "5, 6", "9223372036854775808", "99999999999999999999")...)
	cut("an empty Content-Length", "400", push(goodNote, "Content-Length:"))
	add("an unknown Transfer-Encoding", "501", push(goodNote, "Transfer-Encoding: xchunked"), push(goodNote, "Transfer-Encoding: gzip, chunked"),
		push(goodNote, "Transfer-Encoding: identity"))
	add("two Transfer-Encodings", "501", push("0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: identity"))
	add("a chunk that lies about its size", ir, push("ffffffffffffffff\r\n"+goodNote, "Transfer-Encoding: chunked"),
		push("zz\r\n"+goodNote, "Transfer-Encoding: chunked"), push("-1\r\n"+goodNote, "Transfer-Encoding: chunked"),
		push("5\r\n{\"mutations\"", "Transfer-Encoding: chunked"))
	add("a chunk extension of 1 MB", ir, push("5;"+strings.Repeat("x", 1<<20)+"\r\n12345\r\n0\r\n\r\n", "Transfer-Encoding: chunked"))
	add("chunks over the limit", ptl, push(chunked(strings.Repeat(" ", 1<<20+1), 64<<10), "Transfer-Encoding: chunked"))
	add("chunks of one byte over the limit", ptl, push(strings.Repeat("1\r\n \r\n", 1<<20+1)+"0\r\n\r\n", "Transfer-Encoding: chunked"))
	cut("a Content-Length over the limit, and nothing sent", ptl, push("{", "Content-Length: 1048577"))
	cut("a Content-Length of 2^62, and nothing sent", ptl, push("{", "Content-Length: 4611686018427387904"))
	add("a body one byte too long", ptl, push(goodNote+strings.Repeat(" ", 1<<20+1-len(goodNote))))
	good("a body as long as may be", request("POST", "/v1/sync?lastMutationAt=-1", goodNote+strings.Repeat(" ", 1<<20-len(goodNote)), "X-User-Id: long"))
	cut("half a body", ir, push(goodNote, "Content-Length: 500"))
	cut("half a body in chunks", ir, push("5\r\n{\"mut", "Transfer-Encoding: chunked"))
	add("40 KB of header", "431", get("mutationsSince=0", "X-Long: "+strings.Repeat("x", 40<<10)))
	add("40 KB of URL", "431", get("mutationsSince=0&x="+strings.Repeat("x", 40<<10)))
	add("40 KB of method", "431", raw(strings.Repeat("G", 40<<10)+" / HTTP/1.1", "Host: a"))
	add("10,000 headers", "431", get("mutationsSince=0", strings.Repeat("X-A: b\r\n", 10_000)+"X-B: c"))
	add("NUL in a header", "400", get("mutationsSince=0", "X-A: a\x00b"), get("mutationsSince=0", "X-\x00A: b"))
	add("a control character in a header", "400", get("mutationsSince=0", "X-A: a\x01b"), get("mutationsSince=0", "X-A: a\x7fb"))
	add("a space before the colon", "400", get("mutationsSince=0", "X-A : a"))
	add("a header without a name", "400", get("mutationsSince=0", ": a"))
	add("a header without a colon", "400", get("mutationsSince=0", "X-A"))
	add("a header that goes on in the next line", "200", get("mutationsSince=0", "X-A: a\r\n b"))
	table = append(table, abuse{name: "a user that is folded into another header", want: "200", raw: request("GET", "/v1/sync?mutationsSince=0", "", "X-A: a\r\n X-User-Id: full"),
		message: `{"success":true,"data":{"lastMutationAt":-1,"mutations":[]}}` + "\n"})
	add("bare line feeds", "200", strings.ReplaceAll(get("mutationsSince=0"), "\r\n", "\n"))
	add("bare carriage returns", "400", strings.ReplaceAll(get("mutationsSince=0"), "\r\n", "\r")+"\r\n\r\n")
	add("another Expect", "417", push(goodNote, "Expect: 200-ok"))
	add("GET with a body", "200", request("GET", "/v1/sync?mutationsSince=0", "whatever", "X-User-Id: full"))
	add("GET with chunks", "200", request("GET", "/v1/sync?mutationsSince=0", chunked("whatever", 3), "X-User-Id: full", "Transfer-Encoding: chunked"))
	add("a trailer", ve, push("2\r\n{}\r\n0\r\nX-User-Id: nobody\r\n\r\n", "Transfer-Encoding: chunked", "Trailer: X-User-Id"))

	// Paths and methods.
	add("TRACE", mna, request("TRACE", "/v1/sync", "", "X-Secret: SECRET-1"))
	add("other methods", mna, request("DELETE", "/v1/sync", ""), request("PUT", "/v1/sync", goodNote), request("PATCH", "/v1/sync", goodNote),
		request("PROPFIND", "/v1/sync", ""), request("OPTIONS", "/v1/sync", ""), request("get", "/v1/sync", ""), request("SEARCH", "/v1/sync", ""),
		request("QUERY", "/v1/sync", goodNote), request("POST", "/v1/sync/limits", goodNote), request("POST", "/", goodNote), request("PUT", "/livez", ""))
	add("a long method", mna, request(strings.Repeat("A", 5000), "/v1/sync", ""))
	add("CONNECT", nf, raw("CONNECT example.org:443 HTTP/1.1", "Host: example.org:443"))
	add("OPTIONS *", nf, raw("OPTIONS * HTTP/1.1", "Host: a"))
	add("GET *", nf, raw("GET * HTTP/1.1", "Host: a"))
	add("another method in a header", "200", get("mutationsSince=0", "X-HTTP-Method-Override: POST", "X-Method-Override: DELETE"))
	for _, path := range []string{"//v1/sync", "/v1/../v1/sync", "/v1%2fsync", "/V1/SYNC", "/v1/sync/", "/v1/./sync", "/v1//sync", "/v1/sync;x", "/v1/sync%00",
		"/v1/sync%20", "/%2e%2e/v1/sync", "/v1/sync/../../etc/passwd", "/..%5c..%5cboot.ini", "/openapi.yaml/", "/openapi.yaml%00.html", "/.git/config", "/.env",
		"/metrics", "/debug/pprof", "/debug/pprof/", "/debug/vars", "/admin", "/console", "/v1/sync/events2", "/v1", "/v2/sync", "/favicon.ico", "/robots.txt",
		"/livez/", "/v1/sync/limits/", "/v1/sync/limits/x", "/:any", "/*", "/v1/:sync", "/v1/sync:", "/" + strings.Repeat("a/", 5000), "/%F0%9F%92%A9", "/%ff"} {
		add("path "+path[:min(len(path), 40)], nf, request("GET", path+"?mutationsSince=0", ""))
	}
	add("a target with a scheme", "200", raw("GET http://a/v1/sync?mutationsSince=0 HTTP/1.1", "Host: other.example"))
	add("a target with a foreign host", "403 ForbiddenError", raw("GET http://other.example/v1/sync?mutationsSince=0 HTTP/1.1", "Host: a"))
	add("a fragment in the target", nf, raw("GET /v1/sync#x HTTP/1.1", "Host: a"))

	// Who is asking: headers of proxies and of other schemes are not believed, and do no harm.
	add("an empty user", ir, request("GET", "/v1/sync?mutationsSince=0", "", "X-User-Id:"), request("GET", "/v1/sync?mutationsSince=0", "", "X-User-Id:   "))
	add("two users", ir, request("GET", "/v1/sync?mutationsSince=0", "", "X-User-Id: a", "X-User-Id: a"), request("GET", "/v1/sync?mutationsSince=0", "", "X-User-Id: a", "x-user-id: b"))
	add("a user of 256 bytes", ir, request("GET", "/v1/sync?mutationsSince=0", "", "X-User-Id: "+strings.Repeat("u", 256)))
	add("a user with a control character", ir, request("GET", "/v1/sync?mutationsSince=0", "", "X-User-Id: a\tb"), request("GET", "/v1/sync?mutationsSince=0", "", "X-User-Id: a\u0085b"))
	add("a user that is no UTF-8", ir, request("GET", "/v1/sync?mutationsSince=0", "", "X-User-Id: a\xffb"))
	for _, user := range []string{"../full", "full%00", "' OR '1'='1", "*", "full/", "FULL", "full\u200b", "null", "undefined", "0", "__proto__"} {
		table = append(table, abuse{name: "user " + user, want: "200", raw: request("GET", "/v1/sync?mutationsSince=0", "", "X-User-Id: "+user),
			message: `{"success":true,"data":{"lastMutationAt":-1,"mutations":[]}}` + "\n"})
	}
	add("headers of proxies", "200", get("mutationsSince=0", "X-Forwarded-For: 1.2.3.4", "X-Real-IP: 1.2.3.4", "Forwarded: for=1.2.3.4", "X-Original-URL: /admin", "X-Rewrite-URL: /admin"))
	add("a preflight of another origin", mna, request("OPTIONS", "/v1/sync", "", "Origin: https://evil.example", "Access-Control-Request-Method: POST"))
	add("another origin", "403 ForbiddenError", get("mutationsSince=0", "Origin: https://evil.example"), get("mutationsSince=0", "Origin: null", "Cookie: a=b"))
	add("a token in the query", "200", get("mutationsSince=0&access_token=SECRET-2"))
	add("If-Match and Range", "200", get("mutationsSince=0", `If-Match: "x"`, "Range: bytes=0-1", "If-Unmodified-Since: Mon, 01 Jan 2024 00:00:00 GMT"))

	// The query.
	add("no cursor", ir, get(""), get("lastMutationAt=0"), get("mutationssince=0"), pushQuery(""), pushQuery("mutationsSince=-1"), pushQuery("lastmutationat=-1"))
	add("a cursor that is empty", ir, get("mutationsSince="), get("mutationsSince"), pushQuery("lastMutationAt="), pushQuery("lastMutationAt"))
	add("a cursor twice", ir, get("mutationsSince=0&mutationsSince=0"), get("mutationsSince=0&mutationsSince=1"), pushQuery("lastMutationAt=-1&lastMutationAt=-1"),
		pushQuery("lastMutationAt=-1&lastMutationAt=0"), get("mutationsSince=0&mutations%53ince=0"))
	for _, v := range []string{"%201", "1%20", "+1", "%2B1", "01", "-01", "--1", "0x10", "0x1p4", "1_000", "1,000", "1.", ".5", "1e", "1e+", "1e1.5", "NaN", "Inf", "-Inf",
		"infinity", "null", "true", "undefined", "[]", "{}", "%22-1%22", "1%00", "1%0a", "%00", "%EF%BC%91", "%D9%A1", "1;2", "%zz", "-", "−1", "1e0x", "0b1", "1n", "''", "-1'--",
		strings.Repeat("1", 33), strings.Repeat("1", 10_000), "0." + strings.Repeat("0", 40), "1e" + strings.Repeat("0", 40)} {
		add("cursor "+v[:min(len(v), 20)], ir, get("mutationsSince="+v), pushQuery("lastMutationAt="+v))
	}
	for _, v := range []string{"1731636500303.5", "-1.5", "1e-1", "-2", "-9223372036854775808", "9007199254740992", "9223372036854775808", "18446744073709551615", "1e400",
		"1e31", "1" + strings.Repeat("0", 30), "-1e3", "1e99999999999999999999999999"} {
		add("cursor "+v, ve, get("mutationsSince="+v), pushQuery("lastMutationAt="+v))
	}
	for _, v := range []string{"1731636500303", "1731636500303.0", "1.731636500303e12", "1731636500303000e-3", "1.731636500303E%2B12", "9007199254740991", "1"} {
		says("cursor "+v+" of an empty log", oos, "First sync detected. Please use lastMutationAt=-1 for initial sync.", pushQuery("lastMutationAt="+v))
	}
	says("cursor 0 of an empty log", oos, "First sync detected. Please use lastMutationAt=-1 for initial sync.", pushQuery("lastMutationAt=0"))
	says("cursor -0 of an empty log", oos, "First sync detected. Please use lastMutationAt=-1 for initial sync.", pushQuery("lastMutationAt=-0"))
	good("cursor -1.0 of an empty log", request("POST", "/v1/sync?lastMutationAt=-1.0", goodNote, "X-User-Id: new"))
	const stale = "Invalid lastMutationAt, please re-sync your data and try again."
	for _, v := range []string{"-1", "0", "1731636500", "1", "9007199254740991", fmt.Sprint(fullHead - 1), fmt.Sprint(fullHead + 1)} {
		says("cursor "+v+" of a log", oos, stale, request("POST", "/v1/sync?lastMutationAt="+v, goodNote, "X-User-Id: full"))
	}
	add("a cursor in seconds", "200", get("mutationsSince=1731636500"))
	add("a cursor later than the head", oos, get(fmt.Sprint("mutationsSince=", fullHead+1)), get("mutationsSince=9007199254740991"))
	add("a limit out of range", ve, get("mutationsSince=0&limit=0"), get("mutationsSince=0&limit=-1"), get("mutationsSince=0&limit=1001"), get("mutationsSince=0&limit=1e9"),
		get("mutationsSince=0&limit=100.5"), get("mutationsSince=0&limit=99999999999999999999"))
	add("a limit that is none", ir, get("mutationsSince=0&limit=abc"), get("mutationsSince=0&limit="), get("mutationsSince=0&limit=10&limit=20"), get("mutationsSince=0&limit=0x10"))
	add("a limit as a float", "200", get("mutationsSince=0&limit=100.0"), get("mutationsSince=0&limit=1e2"))
	add("a page out of range", ve, get("mutationsSince=0&page=0"), get("mutationsSince=0&page=-1"), get("mutationsSince=0&page=1.5"), get("mutationsSince=0&page=9007199254740992"))
	add("a page that is none", ir, get("mutationsSince=0&page=one"), get("mutationsSince=0&page="))
	add("the last page there can be", "200", get("mutationsSince=0&page=9007199254740991&limit=1000"))
	add("an after out of range", ve, get("mutationsSince=0&after=-2"), get("mutationsSince=0&after=1e16"), get("mutationsSince=0&after=0.5"))
	add("an after later than the head", "409 OutOfSyncError", get("mutationsSince=0&limit=1&after=9007199254740991"))
	for _, v := range []string{"TRUE", "True", "1", "0", "yes", "on", "", "true%20", "truefalse", "null"} {
		add("boolean "+v, ir, get("mutationsSince=0&metadataOnly="+v), get("mutationsSince=0&history="+v), pushQuery("lastMutationAt=-1&merge="+v))
	}
	add("a boolean twice", ir, get("mutationsSince=0&history=true&history=true"), pushQuery("lastMutationAt=-1&merge=true&merge=false"))
	for _, v := range []string{"BOOKMARK,,NOTE", "NOTE,", ",", "bookmark", "NO-TE", "N%00", "1NOTE", "_X", "NOTE%20", "NÖTE", "N" + strings.Repeat("O", 64), "..%2Fetc", "*"} {
		add("resources "+v[:min(len(v), 20)], ve, get("mutationsSince=0&resources="+v))
	}
	add("resources empty or twice", ir, get("mutationsSince=0&resources="), get("mutationsSince=0&resources=NOTE&resources=NOTE"))
	add("1,000 resources", "200", get("mutationsSince=0&resources="+strings.TrimSuffix(strings.Repeat("NOTE,", 1000), ",")))
	add("parameters that contradict each other", ve, get("mutationsSince=0&page=1&after=0"), get("mutationsSince=0&history=true&metadataOnly=true"),
		get("mutationsSince=0&page=1&history=true"), get("mutationsSince=0&page=1&metadataOnly=true"), get("mutationsSince=0&after=1&metadataOnly=true"))
	add("10,000 parameters", ir, get(strings.Repeat("&", 10_000)+"mutationsSince=0"))
	add("101 parameters", ir, get(strings.Repeat("a&", 100)+"mutationsSince=0"))
	add("100 parameters", "200", get(strings.Repeat("a&", 99)+"mutationsSince=0"))
	add("a query that does not parse", ir, get("mutationsSince=0&x=%"), get("mutationsSince=0&%zz"), get("mutationsSince=0;history=true"), get("mutationsSince=0&a;b"))
	add("a query that does not parse and means nothing", ir, request("GET", "/v1/sync/limits?x=%", ""), request("POST", "/v1/sync/events/ticket?a;b", ""),
		request("GET", "/v1/sync/events?%zz", ""), request("GET", "/v1/sync/limits?"+strings.Repeat("a&", 100), ""))
	add("a nested parameter", ir, get("mutationsSince[]=0"), get("mutationsSince[$gt]=0"))
	add("an unknown parameter", "200", get("mutationsSince=0&userId=nobody&debug=true&callback=alert"))

	// Media types.
	for _, v := range []string{"", " ", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml", "text/xml", "text/json",
		"application/json5", "application/jsonx", "application/vnd.api+json", "*/*", "application/*", "json", "application/json, text/plain", "application/json;charset=utf-16",
		"application/json; charset=latin1", "application/json; charset=", "application/json; charset", "application / json", "application/json\\", "application/json; =", "/"} {
		add("Content-Type "+v, umt, push(goodNote, "Content-Type: "+v))
	}
	add("no Content-Type", umt, strings.Replace(push(goodNote), "Content-Type: application/json\r\n", "", 1))
	add("two Content-Types", umt, push(goodNote, "Content-Type: application/json", "Content-Type: application/json"), push(goodNote, "Content-Type: application/json", "Content-Type: text/plain"))
	for i, v := range []string{"application/json;charset=UTF-8", "application/json; foo=bar", "APPLICATION/JSON", "application/json; charset=\"utf-8\"", "application/json;"} {
		good("Content-Type "+v, request("POST", "/v1/sync?lastMutationAt=-1", goodNote, "Content-Type: "+v, fmt.Sprint("X-User-Id: type", i)))
	}
	add("a Content-Encoding", umt, push(goodNote, "Content-Encoding: gzip"), push(goodNote, "Content-Encoding: br"), push(goodNote, "Content-Encoding: x"),
		push(goodNote, "Content-Encoding: identity, gzip"), push(goodNote, "Content-Encoding: identity", "Content-Encoding: gzip"))
	add("Accept", "200", get("mutationsSince=0", "Accept: image/png"), get("mutationsSince=0", "Accept: ;;;,,/"), get("mutationsSince=0", "Accept: "+strings.Repeat("a/b,", 3000)),
		get("mutationsSince=0", "Accept-Encoding: "+strings.Repeat("gzip;q=0,", 1000)), get("mutationsSince=0", "Accept-Encoding: gzip;q=nan, *;q=-1"))

	// Bodies.
	for _, body := range []string{" ", "\n\n", "\xef\xbb\xbf{}", "{", "}", "{\"mutations\":[]", "{\"mutations\":[}", "{\"mutations\":[]}}", "{\"mutations\":[]}{\"x\":1}", "{\"mutations\":[]} garbage",
		"{\"mutations\":[]}\x00", "{\"mutations\":[],}", "{\"mutations\":[,]}", "{\"mutations\":[]/**/}", "//\n{}", "{'mutations':[]}", "{mutations:[]}", "{\"mutations\":NaN}", "{\"mutations\":Infinity}",
		"{\"mutations\":01}", "{\"mutations\":+1}", "{\"mutations\":.5}", "{\"mutations\":1.}", "{\"mutations\":0x1}", "{\"mutations\":1_0}", "{\"mutations\":True}", "nul", "{\"a\":\"\x01\"}", "{\"a\":\"\n\"}",
		"{\"a\":\"\\x41\"}", "{\"a\":\"\\u12\"}", "{\"mutations\":[],\"mutations\":[]}", "{\"mutations\":[],\"mutation\\u0073\":[]}", "\xff\xfe{\x00}\x00", "{\"a\":\"\xff\"}", "{\"\xff\":1}", "{\"a\":\"\xc0\x80\"}",
		"{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\\ud800\"}", "{\"a\":\"\\udc00\\ud800\"}", "{\"\\ud800\":1}", "<mutations/>", "mutations=%5B%5D", "\"\\", "[1,2", "{\"a\" 1}", "{\"a\":1 \"b\":2}", "{\"a\"}", "--x\r\n",
		strings.Repeat("[", 9000), strings.Repeat(`{"a":`, 5000)} {
		add(fmt.Sprintf("body %.30q", body), ir, push(body))
	}
	add("an empty body", ir, push("", "Content-Type: application/json", "Content-Length: 0"), push("", "Content-Type: application/json"), push("0\r\n\r\n", "Transfer-Encoding: chunked"))
	for _, body := range []string{"null", "[]", `"x"`, "1", "true", "{}", `{"mutations":null}`, `{"mutations":{}}`, `{"mutations":"x"}`, `{"mutations":1}`, `{"mutations":[1]}`, `{"mutations":[[]]}`, `{"mutations":[null]}`,
		`{"mutations":["x",{}]}`, `[{"mutations":[]}]`} {
		says(fmt.Sprintf("body %q", body), ve, "Invalid mutations", push(body))
	}
	add("deep nesting", ve, push(strings.Repeat("[", 20_000)+strings.Repeat("]", 20_000)), push(strings.Repeat("[", 500_000)), data(strings.Repeat(`{"a":`, 64)+"{}"+strings.Repeat("}", 64)),
		data(`{"a":`+strings.Repeat("[", 64)+strings.Repeat("]", 64)+"}"))
	good("the deepest nesting", request("POST", "/v1/sync?lastMutationAt=-1", `{"mutations":[{"type":"CREATE","resource":"N","resourceId":"x","data":`+strings.Repeat(`{"a":`, 63)+"{}"+strings.Repeat("}", 63)+`}]}`, "X-User-Id: deep"))
	says("an unknown member", ve, `Unknown member: "userId"`, push(`{"mutations":[],"userId":"nobody"}`))
	for _, name := range []string{"userId", "Type", "TYPE", "ſource", "resourceID", "isAdmin", "prev", "born", "assigned", "__proto__", ""} {
		says("an unknown member "+name, ve, `Unknown member: "`+name+`" at mutation[0]`, mutation(`"type":"DELETE","resource":"NOTE","resourceId":"a","`+name+`":1`))
	}
	for _, d := range []string{`{"a":1,"a":1}`, `{"a":1,"\u0061":2}`, `{"a":{"b":1,"b":2}}`, `{"a":[{"b":1,"b":2}]}`, "{\"a\":\"\xff\"}", "{\"\xc3\":1}", `{"a":"\ud83d"}`, `{"a":"\ud83dx"}`, `{"a":01}`, `{"a":1e}`} {
		add(fmt.Sprintf("data %q", d), ir, data(d))
	}
	for _, d := range []string{`[]`, `"x"`, `1`, `true`, `"null"`, `{"a":"\u0000"}`, `{"\u0000":1}`, `{"a":["\\\u0000"]}`, `{"a":{"b":"x\u0000y"}}`} {
		says(fmt.Sprintf("data %q", d), ve, "Invalid data at mutation[0]", data(d))
	}
	for _, v := range []string{`"\u0000"`, `{"\u0000":1}`, strings.Repeat("[", 65) + strings.Repeat("]", 65)} {
		says("timestamp "+v, ve, "Invalid timestamp at mutation[0]", mutation(`"type":"DELETE","resource":"NOTE","resourceId":"a","timestamp":`+v))
	}
	says("data null", ve, "Missing data at mutation[0]", data("null"))
	for i, d := range []string{`{"a":"\u0001\u001f\u007f"}`, `{"a":"\u202e\u2066"}`, `{"a":"😀","b":"\ud83d\ude00"}`, `{"a":"é","b":"é"}`, `{"__proto__":{"x":1},"constructor":1}`, `{"$ne":1,"'; DROP TABLE x; --":2}`,
		`{"a":1e400,"b":123456789012345678901234567890.5e-7,"c":-0.0}`, spaced, `{"a":"\\u0000"}`, `{"a":"<script>alert(1)</script>"}`, `{"":{"":{}}}`, `{"a":"\/\b\f\n\r\t"}`} {
		table = append(table, abuse{name: "data " + d, changes: true, want: "200",
			raw:     request("POST", "/v1/sync?lastMutationAt=-1", `{"mutations":[{"type":"CREATE","resource":"N","resourceId":"x","data":`+d+`}]}`, fmt.Sprint("X-User-Id: data", i)),
			message: fmt.Sprintf(`{"success":true,"data":{"lastMutationAt":%d,"mutations":[{"type":"CREATE","resource":"N","resourceId":"x","data":%s,"timestamp":%d}]}}`+"\n", start, d, start)})
	}
	says("data one byte too long", ve, "Data must not exceed 65536 bytes at mutation[0]", data(`{"a":"`+strings.Repeat("x", 65536-8+1)+`"}`))
	says("200,000 small items", ve, "Data must not exceed 65536 bytes at mutation[0]", data(`{"a":[`+strings.Repeat("1,", 200_000)+`1]}`))
	add("1,000,000 small items", ptl, data(`{"a":[`+strings.Repeat("1,", 1_000_000)+`1]}`))
	add("100,000 members", ve, data(`{`+members(100_000)+`}`))
	const del = `{"type":"DELETE","resource":"NOTE","resourceId":"x"}`
	says("101 mutations", ve, "Mutations must not exceed 100", push(`{"mutations":[`+strings.Repeat(del+",", 100)+del+`]}`))
	says("100,000 empty mutations", ve, "Mutations must not exceed 100", push(`{"mutations":[`+strings.Repeat("{},", 100_000)+`{}]}`))
	says("the last of 100 is wrong", ve, "Missing resourceId at mutation[99]", push(`{"mutations":[`+strings.Repeat(del+",", 99)+`{"type":"DELETE","resource":"NOTE"}]}`))
	for _, c := range [][2]string{
		{`"resource":"NOTE","resourceId":"a","data":{}`, "Missing mutation type at mutation[0]"},
		{`"type":null,"resource":"NOTE","resourceId":"a","data":{}`, "Missing mutation type at mutation[0]"},
		{`"type":"UPDATE","resourceId":"a","data":{}`, "Missing resource at mutation[0]"},
		{`"type":"UPDATE","resource":null,"resourceId":"a","data":{}`, "Missing resource at mutation[0]"},
		{`"type":"UPDATE","resource":"NOTE","data":{}`, "Missing resourceId at mutation[0]"},
		{`"type":"DELETE","resource":"NOTE","resourceId":null`, "Missing resourceId at mutation[0]"},
		{`"type":"UPDATE","resource":"NOTE","resourceId":"a"`, "Missing data at mutation[0]"},
		{`"type":"CREATE","resource":"NOTE","data":null`, "Missing data at mutation[0]"},
		{`"type":"create","resource":"NOTE","resourceId":"a","data":{}`, `Invalid mutation type: "create" at mutation[0]`},
		{`"type":"UPSERT","resource":"NOTE","resourceId":"a","data":{}`, `Invalid mutation type: "UPSERT" at mutation[0]`},
		{`"type":1,"resource":"NOTE","resourceId":"a","data":{}`, `Invalid mutation type: "1" at mutation[0]`},
		{`"type":"","resource":"NOTE","resourceId":"a","data":{}`, `Invalid mutation type: "" at mutation[0]`},
		{`"type":{"$ne":1},"resource":"NOTE","resourceId":"a","data":{}`, `Invalid mutation type: "{"$ne":1}" at mutation[0]`},
		{`"type":"DELETE","resource":"bookmark","resourceId":"a"`, `Invalid resource: "bookmark" at mutation[0]`},
		{`"type":"DELETE","resource":1,"resourceId":"a"`, `Invalid resource: "1" at mutation[0]`},
		{`"type":"DELETE","resource":"","resourceId":"a"`, `Invalid resource: "" at mutation[0]`},
		{`"type":"DELETE","resource":"../X","resourceId":"a"`, `Invalid resource: "../X" at mutation[0]`},
		{`"type":"DELETE","resource":"A\u0000","resourceId":"a"`, "Invalid resource: \"A\x00\" at mutation[0]"},
		{`"type":"DELETE","resource":"NOTE","resourceId":""`, "Invalid resourceId at mutation[0]"},
		{`"type":"DELETE","resource":"NOTE","resourceId":7`, "Invalid resourceId at mutation[0]"},
		{`"type":"DELETE","resource":"NOTE","resourceId":["a"]`, "Invalid resourceId at mutation[0]"},
		{`"type":"DELETE","resource":"NOTE","resourceId":"a\u0000"`, "Invalid resourceId at mutation[0]"},
		{`"type":"DELETE","resource":"NOTE","resourceId":"a\n"`, "Invalid resourceId at mutation[0]"},
		{`"type":"DELETE","resource":"NOTE","resourceId":"a\u202e"`, "Invalid resourceId at mutation[0]"},
		{`"type":"DELETE","resource":"NOTE","resourceId":"` + strings.Repeat("é", 65) + `"`, "Invalid resourceId at mutation[0]"},
	} {
		says(c[0][:min(len(c[0]), 70)], ve, c[1], mutation(c[0]))
	}
	says("a long type", ve, `Invalid mutation type: "`+strings.Repeat("x", 64)+`…" at mutation[0]`, mutation(`"type":"`+strings.Repeat("x", 100_000)+`","resource":"NOTE","resourceId":"a","data":{}`))
	good("members that are null where they may be absent", request("POST", "/v1/sync?lastMutationAt=-1",
		`{"mutations":[{"type":"CREATE","resource":"NOTE","resourceId":null,"data":{},"timestamp":"x"},{"type":"DELETE","resource":"NOTE","resourceId":"a","data":null}]}`, "X-User-Id: null"))
	good("an id that looks like a path", request("POST", "/v1/sync?lastMutationAt=-1",
		`{"mutations":[{"type":"DELETE","resource":"NOTE","resourceId":"../../etc/passwd"},{"type":"DELETE","resource":"A_1","resourceId":"' OR 1=1; --"}]}`, "X-User-Id: path"))

	// Headers of a push.
	for _, v := range []string{"", `""`, strings.Repeat("k", 256), "clé", "a\tb", "\xff"} {
		add(fmt.Sprintf("Idempotency-Key %.20q", v), ir, push(goodNote, "Idempotency-Key: "+v))
	}
	add("two Idempotency-Keys", ir, push(goodNote, "Idempotency-Key: a", "Idempotency-Key: a"))
	for _, v := range []string{"", strings.Repeat("k", 256), "a\tb", "\xff", "a\u0085"} {
		add(fmt.Sprintf("x-client-id %.20q", v), ir, push(goodNote, "x-client-id: "+v))
	}
	add("an x-client-id that means nothing", ir, request("GET", "/v1/sync/limits", "", "x-client-id:"), request("GET", "/v1/sync/limits", "", "x-client-id: a", "x-client-id: b"),
		request("POST", "/v1/sync/events/ticket", "", "x-client-id: a\tb"), request("GET", "/v1/sync/events", "", "x-client-id: \xff"))
	add("two x-client-ids", ir, push(goodNote, "x-client-id: a", "X-Client-Id: b"))
	add("a hostile X-Request-Id", "200", get("mutationsSince=0", "X-Request-Id: "+strings.Repeat("x", 129)),
		get("mutationsSince=0", "X-Request-Id: é"), get("mutationsSince=0", "X-Request-Id:"), get("mutationsSince=0", `X-Request-Id: "><script>`))
	add("a hostile If-None-Match", "200", get("mutationsSince=0", "If-None-Match: "+strings.Repeat(`W/"1",`, 2000)), get("mutationsSince=0", `If-None-Match: W/"`), get("mutationsSince=0", "If-None-Match: ,,,"))
	add("a hostile Prefer", oos, request("POST", "/v1/sync?lastMutationAt=0", goodNote, "X-User-Id: full", "Prefer: "+strings.Repeat("return=,", 1500)))
	return table
}

// members is n different members of a JSON object.
func members(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%x":0,`, i)
	}
	return strings.TrimSuffix(b.String(), ",")
}
