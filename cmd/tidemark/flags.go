package main

// cli is the one table of commands and flags. A flag --max-body-bytes can be
// given as the environment variable TIDEMARK_MAX_BODY_BYTES, too.
type cli struct {
	Serve   serveCommand   `cmd:"" help:"Serve the sync protocol."`
	Check   checkCommand   `cmd:"" help:"Verify a store that is not being served, or a copy: structure, checksums and every rule of the log."`
	Health  healthCommand  `cmd:"" help:"Ask a running server whether it is alive."`
	Version versionCommand `cmd:"" help:"Print the version."`
	Help    helpCommand    `cmd:"" help:"Print this help, or that of a command."`
}

type serveCommand struct {
	addrFlag
	storeFlag
	InsecureOpen bool   `help:"Listen on other than loopback addresses although there is no authentication: whoever reaches the server reads and writes everything."`
	MaxBodyBytes int64  `help:"Largest body of a push, in bytes." default:"1048576"`
	MaxMutations int    `help:"Most mutations in a push." default:"100"`
	MaxDataBytes int    `help:"Largest data of a resource, in bytes." default:"65536"`
	Pprof        string `help:"Serve profiles of the running server on this loopback address; see docs/performance.md." placeholder:"ADDR"`
	LogLevel     string `help:"Least level that is logged: debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	LogFormat    string `help:"Format of the log on stderr: text or json." enum:"text,json" default:"text"`
}

type checkCommand struct {
	storeFlag
}

type healthCommand struct {
	addrFlag
}

type versionCommand struct{}

type helpCommand struct {
	Command []string `arg:"" optional:"" help:"The command to explain."`
}

type addrFlag struct {
	Addr string `help:"Address of the server: host:port." default:"127.0.0.1:8080"`
}

type storeFlag struct {
	Store string `help:"Path of the store, a bbolt file; serve creates it." default:"tidemark.db"`
}
