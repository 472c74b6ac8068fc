package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Run asks a server whether it is alive; for container health checks, where
// there may be neither shell nor curl.
func (c *healthCommand) Run() error {
	host, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return usageError("--addr: %w", err)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost" // what listens on every address is asked on this one
	}
	client, scheme := http.Client{Timeout: 5 * time.Second}, "http"
	if c.TLSCert != "" {
		config, err := trusting(c.TLSCert)
		if err != nil {
			return err
		}
		client.Transport, scheme = &http.Transport{TLSClientConfig: config}, "https"
	}
	res, err := client.Get(scheme + "://" + net.JoinHostPort(host, port) + "/livez")
	if err != nil {
		return err
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", res.Status)
	}
	return nil
}
