// Command postgres measures what the store in PostgreSQL makes of its database:
// pushes and polls through it against what pgbench reaches with the same statements
// and sizes on as many connections. The two take turns, so that other load on
// the machine, and the growth of the tables, meet both; what counts is the
// ratio.
//
//	go run ./bench/postgres [-dir DIR | -url postgres://…] [-connections 64] [-seconds 5] [-rounds 5]
//
// Unless a database is named, it starts a server of its own from the machine's
// PostgreSQL, durable as it comes, with its files in DIR: which must be on the disk that
// is to be measured. A database that is named is filled with made-up logs: take
// an empty one.
//
// The third figure is what the store would have of committing several users' pushes
// in one transaction.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"time"

	"tidemark/store"
	"tidemark/store/postgrestest"
)

type settings struct {
	url         string
	connections int
	users       int
	mutations   int
	length      time.Duration
	rounds      int
}

func main() {
	var o settings
	flag.StringVar(&o.url, "url", "", "an empty database: postgres://…; without it, one of a server of its own")
	dir := flag.String("dir", os.TempDir(), "where that server has its files")
	flag.IntVar(&o.connections, "connections", 64, "how many push and poll at the same time")
	flag.IntVar(&o.users, "users", 10_000, "how many users there are")
	flag.IntVar(&o.mutations, "mutations", 10, "mutations in a push")
	flag.IntVar(&o.rounds, "rounds", 5, "how often the two take turns")
	seconds := flag.Int("seconds", 5, "how long a turn is")
	flag.Parse()
	o.length = time.Duration(*seconds) * time.Second
	measure := run
	if o.url == "" {
		measure = func(o settings) error { return onOwnServer(*dir, o) }
	}
	if err := measure(o); err != nil {
		fmt.Fprintln(os.Stderr, "postgres:", err)
		os.Exit(1)
	}
}

// onOwnServer runs the comparison on a server that is started for it. Its
// settings are those of deploy/compose.yaml.
func onOwnServer(dir string, o settings) error {
	server, err := postgrestest.New(postgrestest.Options{Dir: dir, Settings: []string{"shared_buffers = 512MB", "max_wal_size = 4GB"}})
	if err != nil {
		return err
	}
	defer server.Close()
	o.url = server.URL("postgres")
	return run(o)
}

func run(o settings) error {
	s, err := store.OpenPostgres(o.url)
	if err != nil {
		return err
	}
	defer s.Close()
	subject := newSubject(s, o)
	fmt.Fprintf(os.Stderr, "making %d users\n", o.users)
	if err := subject.fill(); err != nil {
		return err
	}
	bench := func(script string, pushes float64) func() (float64, error) {
		return func() (float64, error) {
			n, err := pgbench(o, script)
			return n * pushes, err
		}
	}
	measures := []struct {
		name      string
		own, base func() (float64, error)
	}{
		{"pushes/s: store, pgbench", subject.pushes, bench(pushScript(o), 1)},
		{"polls/s: store, pgbench", subject.polls, bench(pollScript(o), 1)},
		{fmt.Sprintf("pushes/s of pgbench: %d users in a transaction, one", inGroup), bench(groupScript(o), inGroup), bench(pushScript(o), 1)},
	}
	for _, m := range measures {
		var own, base, ratios []float64
		for range o.rounds {
			a, err := m.own()
			if err != nil {
				return err
			}
			b, err := m.base()
			if err != nil {
				return err
			}
			own, base, ratios = append(own, a), append(base, b), append(ratios, a/b)
		}
		fmt.Printf("%s: %s, %s, ratio %s\n", m.name, spread(own, "%.0f"), spread(base, "%.0f"), spread(ratios, "%.2f"))
	}
	return nil
}

// spread is the median of figures, and the least and the most.
func spread(figures []float64, format string) string {
	slices.Sort(figures)
	return fmt.Sprintf(format+" ("+format+" to "+format+")", figures[len(figures)/2], figures[0], figures[len(figures)-1])
}
