//go:build race

package history

// With the race detector in the tests, the server is built with it, too.
func init() { buildFlags = append(buildFlags, "-race") }
