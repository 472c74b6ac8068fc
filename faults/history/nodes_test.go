package history

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tidemark/store/postgrestest"
)

// databases are stores on a PostgreSQL server.
type databases struct {
	cluster *postgrestest.Cluster
	made    *atomic.Int64
}

func (d databases) create() (string, error) {
	name := fmt.Sprint("history", d.made.Add(1))
	_, err := d.cluster.Query("postgres", "CREATE DATABASE "+name)
	return d.cluster.URL(name), err
}

// name is the name of the database of a store.
func (d databases) name(store string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(store, "postgres:///"), "?")
	return name
}

func (d databases) content(store string) ([]byte, error) {
	tables, err := d.cluster.Query(d.name(store), "SELECT tablename FROM pg_tables WHERE schemaname = 'tidemark' ORDER BY 1")
	if err != nil || tables == "" {
		return nil, fmt.Errorf("no tables: %q %w", tables, err)
	}
	var sums []string
	for table := range strings.Lines(tables) {
		sums = append(sums, "SELECT md5(string_agg(t::text, '' ORDER BY t::text COLLATE \"C\")) FROM tidemark."+strings.TrimSpace(table)+" AS t")
	}
	content, err := d.cluster.Query(d.name(store), strings.Join(sums, " UNION ALL "))
	return []byte(content), err
}

func (databases) check(binary, store string) error { return check(binary, store) }

func (d databases) remove(store string) {
	d.cluster.Query("postgres", "DROP DATABASE "+d.name(store)+" WITH (FORCE)")
}

// TestF36ThreeServers makes histories of three servers on one PostgreSQL that 32
// devices of one user race on, half of them with kills of servers.
func TestF36ThreeServers(t *testing.T) {
	if testing.Short() {
		t.Skip("starts servers")
	}
	n := 20
	if *longFlag {
		n = 200
	}
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(rand.Uint32())
	}
	how := settings{kind: databases{postgrestest.Start(t, postgrestest.Options{Settings: []string{"max_connections = 400"}}), &atomic.Int64{}}, servers: 3, devices: 32, users: 1, steps: 4}
	start := time.Now()
	found, counts, err := judge(binaries(t), how, seed, n, func([]violation) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	for seed, violations := range found {
		for _, v := range violations[:min(len(violations), 10)] {
			t.Errorf("seed %d: %s: %.5000s", seed, v.rule, v.text)
		}
	}
	fmt.Printf("F36: three servers on one PostgreSQL, 32 devices of one user: %s; seeds %d to %d; %.0f s\n", counts, seed, seed+uint64(n)-1, time.Since(start).Seconds())
	counts.mustBeHard(t)
}
