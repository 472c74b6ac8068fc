package main

import (
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// profiles serves Go's profiles at /debug/pprof/ on a listener of their own,
// away from what devices reach, if --pprof asks for it.
func (c *serveCommand) profiles(work *background) error {
	if c.Pprof == "" {
		return nil
	}
	l, err := net.Listen("tcp", c.Pprof)
	if err != nil {
		return &exitError{exitAddress, err}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	h := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go h.Serve(l)
	work.until(func() { h.Close() })
	return nil
}
