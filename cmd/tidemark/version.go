package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by release builds: -ldflags "-X main.version=v1.2.3".
var version = ""

// versionText is the version, as far as it is known.
func versionText() string {
	if info, ok := debug.ReadBuildInfo(); ok && version == "" {
		return info.Main.Version
	}
	return version
}

// Run prints the version of tidemark and of Go.
func (c *versionCommand) Run(io streams) error {
	_, err := fmt.Fprintf(io.out, "tidemark %s %s\n", versionText(), runtime.Version())
	return err
}
