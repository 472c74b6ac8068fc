package main

import (
	"fmt"
	"io"
	"net/http"
	"time"
)

// Run asks a server whether it is alive; for container health checks, where
// there may be neither shell nor curl.
func (c *healthCommand) Run() error {
	client := http.Client{Timeout: 5 * time.Second}
	res, err := client.Get("http://" + c.Addr + "/livez")
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
