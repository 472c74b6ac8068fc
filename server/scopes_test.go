package server_test

// What a token sees whose scopes leave out some kinds of resources: every form of every answer × every token, searched
// for everything that the log holds of each kind (docs/resources.md, "Scopes"; rule 23).

import (
	"cmp"
	"fmt"
	"strings"
	"testing"

	"tidemark/auth"
)

const scoped = `resources:
  OPEN: {}
  HEALTH: {scope: health, schema: {properties: {pulse: {type: integer}}}}
  LINK: {scope: links, key: [from, to]}
`

// scopedRig is a server whose alice has something of each kind, and one of each that is deleted and one that is changed.
type scopedRig struct {
	*guarded
	everything string // a token with every scope
	first      int64  // a cursor behind the first of each
	head       int64
}

func newScopedRig(t *testing.T) *scopedRig {
	g := &scopedRig{guarded: newGuardedWith(t, nil, going(t, scoped))}
	g.everything, _ = g.token("alice", auth.ScopeSync, "health", "links")
	g.push(g.everything, "lastMutationAt=-1", body(
		`{"type":"CREATE","resource":"HEALTH","resourceId":"health-id","data":{"pulse":60,"x":"health-data"}}`,
		`{"type":"CREATE","resource":"OPEN","resourceId":"open-id","data":{"x":"open-data"}}`,
		`{"type":"CREATE","resource":"LINK","data":{"from":"link-id","to":1}}`), "Idempotency-Key: health-key").expect(t, 200, "")
	g.first = int64(start) + 2
	g.push(g.everything, fmt.Sprintf("lastMutationAt=%d", g.first), body(
		`{"type":"UPDATE","resource":"LINK","data":{"from":"link-id","to":1,"x":"link-data"}}`,
		`{"type":"DELETE","resource":"HEALTH","resourceId":"health-gone","data":{"x":"health-why"}}`,
		`{"type":"UPDATE","resource":"OPEN","resourceId":"open-id","data":{"y":1}}`,
		`{"type":"UPDATE","resource":"HEALTH","resourceId":"health-id","data":{"y":"health-more"}}`,
		`{"type":"DELETE","resource":"LINK","data":{"from":"link-gone","to":1}}`)).expect(t, 200, "")
	g.head = int64(start) + 7
	return g
}

// push pushes with a token.
func (g *scopedRig) push(token, query, body string, headers ...string) answer {
	g.t.Helper()
	return g.post(query, body, append(headers, "Authorization: Bearer "+token)...)
}

// TestScopeMatrix: no answer in any form has a word of a kind that is out of the token's scopes; all have what is in
// them, and the head of the whole log.
func TestScopeMatrix(t *testing.T) {
	pulls := []string{"mutationsSince=-1", "mutationsSince=0", "mutationsSince={first}", "mutationsSince=0&history=true",
		"mutationsSince=-1&history=true", "mutationsSince=0&limit=1000", "mutationsSince=0&page=1", "mutationsSince=0&limit=2",
		"mutationsSince=0&limit=1&page=2", "mutationsSince=0&limit=1&after={first}", "mutationsSince=0&metadataOnly=true", "mutationsSince=0&resources=OPEN"}
	for name, scopes := range map[string][]string{
		"all":          {auth.ScopeSync, "health", "links"},
		"one":          {auth.ScopeSync, "health"},
		"none":         {auth.ScopeSync},
		"read only":    {auth.ScopeRead, "links"},
		"another name": {auth.ScopeSync, "HEALTH", "health:read", "link"},
	} {
		t.Run(name, func(t *testing.T) {
			g := newScopedRig(t)
			token, _ := g.token("alice", scopes...)
			hidden := map[string]bool{"health": true, "link": true}
			for _, scope := range scopes {
				delete(hidden, map[string]string{"health": "health", "links": "link"}[scope])
			}
			look := func(what string, a answer) {
				t.Helper()
				for kind := range hidden {
					for _, word := range []string{"-id", "-data", "-gone", "-more", "-why"} {
						if strings.Contains(a.body, kind+word) {
							t.Errorf("%s tells of %s: %s", what, kind+word, a.body)
						}
					}
				}
			}
			for _, query := range pulls {
				query = strings.ReplaceAll(query, "{first}", fmt.Sprint(g.first))
				a := g.get(query, "x-auth-token: "+token)
				look(query, a)
				a.expect(t, 200, fmt.Sprintf(`"lastMutationAt":%d`, g.head))
				if complete := !strings.ContainsAny(query, "&"); complete {
					for _, kind := range []string{"health", "link", "open"} {
						if want := !hidden[kind]; strings.Contains(a.body, kind+"-id") != want {
							t.Errorf("%s tells of %s: %t, want %t: %s", query, kind, !want, want, a.body)
						}
					}
				}
			}
			for kind, resource := range map[string]string{"health": "HEALTH", "link": "LINK"} {
				want := 200
				if hidden[kind] {
					want = 403
				}
				for _, query := range []string{"mutationsSince=0&resources=" + resource, "mutationsSince=-1&metadataOnly=true&resources=OPEN," + resource} {
					a := g.get(query, "x-auth-token: "+token)
					look(query, a)
					a.expect(t, want, "")
				}
			}
			if scopes[0] == auth.ScopeSync {
				g.pushes(t, token, hidden, look)
			}
		})
	}
}

// pushes looks at all that a push can be answered with.
func (g *scopedRig) pushes(t *testing.T, token string, hidden map[string]bool, look func(string, answer)) {
	open := `{"type":"CREATE","resource":"OPEN","resourceId":"mine","data":{}}`
	behind, level := fmt.Sprintf("lastMutationAt=%d", g.first), fmt.Sprintf("lastMutationAt=%d", g.head)
	for kind, mutation := range map[string]string{
		"health": `{"type":"UPDATE","resource":"HEALTH","resourceId":"x","data":{"pulse":"wrong"}}`,
		"link":   `{"type":"DELETE","resource":"LINK"}`,
	} {
		for _, query := range []string{behind, level, "lastMutationAt=-1", level + "&merge=true", "lastMutationAt=1.5"} {
			a := g.push(token, query, body(open, mutation))
			look(query, a)
			if hidden[kind] {
				scope := map[string]string{"health": "health", "link": "links"}[kind]
				a.expect(t, 403, `"details":{"scope":"`+scope+`"}`)
				if got := a.Header.Get("WWW-Authenticate"); got != `Bearer error="insufficient_scope", scope="`+scope+`"` {
					t.Errorf("WWW-Authenticate: %s", got)
				}
			} else if a.StatusCode == 403 {
				t.Errorf("%s: %s", query, a.body)
			}
		}
		g.push(token, behind, `{"mutations":[`+mutation).expect(t, 400, "") // it is no JSON, whatever it would be
	}
	stale := `{"type":"UPDATE","resource":"OPEN","resourceId":"open-id","data":{"x":null}}`
	for _, push := range []struct {
		query, body, key string
		status           int
	}{
		{behind, body(stale), "", 409},
		{behind + "&merge=true", body(stale), "", 409},
		{level, body(`{"type":"UPDATE","resource":"OPEN","resourceId":"new"}`), "", 422},
		{behind, body(open), "health-key", 422}, // of a push that had hidden kinds
		{behind + "&merge=true", body(open), "mine", 200},
		{behind, body(open), "mine", 200}, // replayed, with its changes
	} {
		a := g.push(token, push.query, push.body, "Idempotency-Key: "+cmp.Or(push.key, "none"))
		look(push.query, a)
		a.expect(t, push.status, "")
		for kind := range map[string]bool{"health": true, "link": true} {
			if changes := strings.Contains(a.body, `"changes"`); changes && strings.Contains(a.body, kind+"-") == hidden[kind] {
				t.Errorf("%s, hidden %t: %s", kind, hidden[kind], a.body)
			}
		}
	}
}

// TestScopesAndCursor: a device without a scope pages to the end, pushes on the head that it gets, and is level.
func TestScopesAndCursor(t *testing.T) {
	g := newScopedRig(t)
	token, _ := g.token("alice", auth.ScopeSync)
	g.get("mutationsSince=0&limit=1", "x-auth-token: "+token).expect(t, 200, `"limit":1,"hasMore":false}`)
	g.get("mutationsSince=0&limit=1&page=1", "x-auth-token: "+token).expect(t, 200, `"total":1,"hasMore":false}`)
	g.push(token, fmt.Sprintf("lastMutationAt=%d", g.head), body(`{"type":"CREATE","resource":"OPEN","resourceId":"a","data":{}}`)).expect(t, 200,
		fmt.Sprintf(`{"lastMutationAt":%d,`, g.head+1))
	g.get(fmt.Sprintf("mutationsSince=%d", g.head+1), "x-auth-token: "+token).expect(t, 200, `"mutations":[]`)
}

// TestScopeAmongRefusals: what does not parse is told before the scope, what breaks a rule after it.
func TestScopeAmongRefusals(t *testing.T) {
	g := newScopedRig(t)
	token, _ := g.token("alice", auth.ScopeSync)
	for query, status := range map[string]int{
		"mutationsSince=0&resources=HEALTH,x":       403,
		"mutationsSince=0&resources=x":              422,
		"mutationsSince=0&resources=HEALTH&limit=0": 403,
		"mutationsSince=0&resources=HEALTH&limit=x": 400,
		"resources=HEALTH":                          400,
		"mutationsSince=1.5&resources=HEALTH":       403,
	} {
		g.get(query, "x-auth-token: "+token).expect(t, status, "")
	}
}
