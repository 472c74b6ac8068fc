package main

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// The scripts do what the store does for a push and a poll: the statements are
// those of store/postgres_*.go with their parameters written out, in as many
// round trips, for as many other users.

const pollStatement = `SELECT head, revision, pruned, horizon, gaps FROM tidemark.logs WHERE user_id = convert_to('user-' || lpad(%s::text, 8, '0'), 'UTF8')`

func pollScript(o settings) string {
	return fmt.Sprintf("\\set u random(0, %d)\n"+pollStatement+";\n", o.users-1, "(:u)")
}

// pushScript pushes once. No two clients have a user in common.
func pushScript(o settings) string {
	return pick(o, 0, 1) + readScript(o) + "\\startpipeline\nBEGIN ISOLATION LEVEL READ COMMITTED;\n" + writeScript(o) + "COMMIT;\n\\endpipeline\n"
}

// inGroup is how many users' pushes share a transaction in groupScript.
const inGroup = 8

// groupScript reads for several users and then writes for all of them at once.
func groupScript(o settings) string {
	var reads, writes string
	for i := range inGroup {
		own := strings.NewReplacer(":head", fmt.Sprintf(":p%d_head", i), ":revision", fmt.Sprintf(":p%d_revision", i), "\\gset", fmt.Sprintf("\\gset p%d_", i),
			"\\set u ", fmt.Sprintf("\\set u%d ", i), "\\set r ", fmt.Sprintf("\\set r%d ", i), ":u)", fmt.Sprintf(":u%d)", i), ":r", fmt.Sprintf(":r%d", i))
		reads += own.Replace(pick(o, i, inGroup) + readScript(o))
		writes += own.Replace(writeScript(o))
	}
	return reads + "\\startpipeline\nBEGIN ISOLATION LEVEL READ COMMITTED;\n" + writes + "COMMIT;\n\\endpipeline\n"
}

// pick picks a user of the client in the i-th of n parts of its users.
func pick(o settings, i, n int) string {
	each := o.users / o.connections / n
	return fmt.Sprintf("\\set u %d + :client_id + %d * random(%d, %d)\n\\set r random(1, 1000000000000)\n", o.users, o.connections, i*each, (i+1)*each-1)
}

const userOf = `convert_to('user-' || lpad((:u)::text, 8, '0'), 'UTF8')`

func readScript(o settings) string {
	ids := make([]string, o.mutations)
	for i := range ids {
		ids[i] = fmt.Sprintf("'%03d-%02d-' || :r", i, i)
	}
	return fmt.Sprintf(`SELECT l.head, l.revision, l.pruned, l.horizon, l.gaps, m.* FROM tidemark.logs AS l
LEFT JOIN LATERAL (SELECT r.i, m.at, m.type, m.resource, m.resource_id, m.assigned, m.data, m.state, m.prev, m.born, m.crc
FROM unnest(array_fill('NOTE'::text, ARRAY[%d]), ARRAY[%s]) WITH ORDINALITY AS r (resource, resource_id, i)
CROSS JOIN LATERAL (SELECT * FROM tidemark.mutations AS n
WHERE n.user_id = %[3]s AND (n.resource, n.resource_id, n.at) <= (r.resource, r.resource_id, l.head)
ORDER BY n.resource DESC, n.resource_id DESC, n.at DESC LIMIT 1) AS m
WHERE m.resource = r.resource AND m.resource_id = r.resource_id) AS m ON true WHERE l.user_id = %[3]s \gset
`, o.mutations, strings.Join(ids, ", "), userOf)
}

func writeScript(o settings) string {
	at, ids := make([]string, o.mutations), make([]string, o.mutations)
	for i := range ids {
		at[i] = fmt.Sprintf("(:head)::bigint + %d", i+1)
		ids[i] = fmt.Sprintf("'%03d-%02d-' || :r", i, i)
	}
	return fmt.Sprintf(`UPDATE tidemark.logs SET head = (:head)::bigint + %[1]d WHERE user_id = %[2]s AND head = (:head)::bigint AND revision = (:revision)::bigint;
INSERT INTO tidemark.batches (user_id, previous, first, last, base, client, key, receipt, mutations, bytes, live)
SELECT l.user_id, (:head)::bigint, (:head)::bigint + 1, l.head, (:head)::bigint, '', NULL, true, %[1]d, %[3]d, NULL
FROM tidemark.logs AS l WHERE l.user_id = %[2]s AND l.head = (:head)::bigint + %[1]d AND l.revision = (:revision)::bigint;
INSERT INTO tidemark.mutations (user_id, at, type, resource, resource_id, assigned, data, state, prev, born, crc)
SELECT l.user_id, m.* FROM tidemark.logs AS l, unnest(ARRAY[%[4]s]::bigint[], array_fill('CREATE'::text, ARRAY[%[1]d]), array_fill('NOTE'::text, ARRAY[%[1]d]),
ARRAY[%[5]s]::text[], array_fill(false, ARRAY[%[1]d]), array_fill('%[6]s'::text, ARRAY[%[1]d]), array_fill(''::text, ARRAY[%[1]d]),
array_fill(-1::bigint, ARRAY[%[1]d]), ARRAY[%[4]s]::bigint[], array_fill(4294967295::bigint, ARRAY[%[1]d])) AS m
WHERE l.user_id = %[2]s AND l.head = (:head)::bigint + %[1]d AND l.revision = (:revision)::bigint;
`, o.mutations, userOf, o.mutations*dataBytes, strings.Join(at, ", "), strings.Join(ids, ", "), data)
}

// pgbench runs a script on as many connections and returns how often in a second.
func pgbench(o settings, script string) (float64, error) {
	f, err := os.CreateTemp("", "pgbench-*.sql")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	if _, err := f.WriteString(script); err != nil {
		return 0, err
	}
	f.Close()
	cmd := exec.Command("pgbench", "-n", "-M", "prepared", "-c", strconv.Itoa(o.connections), "-j", "2",
		"-T", strconv.Itoa(int(o.length.Seconds())), "-f", f.Name(), libpq(o.url))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w\n%.1000s", err, out)
	}
	tps := regexp.MustCompile(`tps = ([0-9.]+)`).FindSubmatch(out)
	if tps == nil {
		return 0, fmt.Errorf("pgbench says no figure:\n%s", out)
	}
	return strconv.ParseFloat(string(tps[1]), 64)
}

// libpq returns the URL without the parameters that only pgx knows.
func libpq(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return address
	}
	q := u.Query()
	for name := range q {
		if strings.HasPrefix(name, "pool_") || strings.HasPrefix(name, "default_query_exec_mode") {
			q.Del(name)
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}
