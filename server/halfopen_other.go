//go:build !linux

package server

import (
	"net"
	"time"
)

// setUserTimeout has no counterpart here: a peer that has vanished is noticed
// when the kernel gives up.
func setUserTimeout(*net.TCPConn, time.Duration) {}
