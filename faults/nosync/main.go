// Command nosync is tidemark over a store that never syncs. It exists to lose
// data: a test of power cuts that it passes would prove nothing.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"

	"tidemark/mutlog"
	"tidemark/server"
	"tidemark/store"
)

func main() {
	path := flag.String("store", "", "")
	addr := flag.String("addr", "", "")
	flag.String("log-level", "", "")
	flag.CommandLine.Parse(os.Args[2:]) // behind "serve"
	if err := serve(*path, *addr); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func serve(path, addr string) error {
	s, err := store.OpenBolt(path, store.BoltOptions{NoSync: true})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	fmt.Printf("http://%s\n", l.Addr())
	api := server.New(server.Options{Log: mutlog.New(s, mutlog.DefaultLimits), Limits: mutlog.DefaultLimits,
		MaxBodyBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
	return api.Serve(context.Background(), l)
}
