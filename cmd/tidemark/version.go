package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by release builds: -ldflags "-X main.version=v1.2.3".
var version = ""

// Run prints the version of tidemark and of Go.
func (c *versionCommand) Run(io streams) error {
	v := version
	if info, ok := debug.ReadBuildInfo(); ok && v == "" {
		v = info.Main.Version
	}
	_, err := fmt.Fprintf(io.out, "tidemark %s %s\n", v, runtime.Version())
	return err
}
