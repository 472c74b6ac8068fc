package main

import (
	"net/url"
	"time"
)

// cli is the one table of commands and flags. A flag --max-body-bytes can be
// given as the environment variable TIDEMARK_MAX_BODY_BYTES, too.
type cli struct {
	Serve     serveCommand     `cmd:"" help:"Serve the sync protocol."`
	Check     checkCommand     `cmd:"" help:"Verify a store that is not being served, or a copy: structure, checksums and every rule of the log."`
	Backup    backupCommand    `cmd:"" help:"Write a backup of a store to a new file, and verify it."`
	Restore   restoreCommand   `cmd:"" help:"Put the store in a backup in the place of the one that is there, which is kept under another name. Devices that have seen more than the backup holds are told, and send again what was lost."`
	Fence     fenceCommand     `cmd:"" help:"Record that the store was restored: devices that have seen more than it holds are told, and send again what was lost. For a database, after a recovery to a point in time and before a server starts on it; restore does it by itself."`
	User      userCommand      `cmd:"" help:"Show, export, import or erase what the store has of a user, whether or not a server runs on it."`
	Migrate   migrateCommand   `cmd:"" help:"Copy a store to another, such as a file to a database, and verify that both answer alike. No server may use either meanwhile. Devices go on where they were. Interrupted, it goes on where it was when it is run again."`
	Compact   compactCommand   `cmd:"" help:"Give the free space in a store that is not being served back to the file system, which needs room for both meanwhile."`
	Resources resourcesCommand `cmd:"" help:"Look at a resource file, see docs/resources.md."`
	Token     tokenCommand     `cmd:"" help:"Make, list and revoke API tokens, whether or not a server runs on the store."`
	Bench     benchCommand     `cmd:"" help:"Put load on a running server and measure how it bears it. It pushes made-up notes for made-up users: do not let it loose on a store that you need."`
	Health    healthCommand    `cmd:"" help:"Ask a running server whether it is alive."`
	Version   versionCommand   `cmd:"" help:"Print the version."`
	Help      helpCommand      `cmd:"" help:"Print this help, or that of a command."`
}

type serveCommand struct {
	addrFlag
	storeFlag
	InsecureOpen bool `help:"Listen on other than loopback addresses even without authentication: whoever reaches the server reads and writes everything."`
	jwtFlags
	limitFlags
	retentionFlags
	backupFlags
	tlsFlags
	edgeFlags
	adminFlags
	webhookFlags
	Resources     string `help:"Resource file: which resources there may be, and what holds for each; see docs/resources.md. SIGHUP makes the server read it again. Without it every resource is allowed." placeholder:"FILE"`
	Pprof         string `help:"Serve profiles of the running server on this loopback address; see docs/performance.md." placeholder:"ADDR"`
	Check         string `help:"What to verify of the store before serving it: full is pages, checksums and every rule of the log; checksums leaves out the rules; quick is what can be in no time; off is nothing; auto is quick for a store over 8 MiB that was closed, else full, which takes about five seconds for a million mutations. A database is not verified." enum:"auto,full,checksums,quick,off" default:"auto"`
	AnyFileSystem bool   `help:"Open a store on a network file system, too: locks and mapped pages may not hold there what they promise, and data be lost."`
	FoldBatches   int    `hidden:"" help:"How many batches gather before their places are written in the order of users; for tests."`
	LogLevel      string `help:"Least level that is logged: debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	LogFormat     string `help:"Format of the log on stderr: text or json." enum:"text,json" default:"text"`
}

// jwtFlags say whose JWTs count.
type jwtFlags struct {
	JWTIssuer     string   `name:"jwt-issuer" help:"Identity provider whose JWTs count: their iss, and its URL where the keys are to be discovered." placeholder:"URL"`
	JWTAudience   []string `name:"jwt-audience" help:"What the provider calls this server: a JWT must have one of these as aud." placeholder:"NAME"`
	JWTKeys       string   `name:"jwt-keys" help:"URL or file of the key set of the provider (JWKS); by default it is discovered (OpenID Connect)." placeholder:"URL"`
	JWTSecretFile string   `name:"jwt-secret-file" help:"File with the secret of a provider that signs with HS256, in place of keys." placeholder:"FILE"`
	JWTScopes     []string `name:"jwt-scopes" help:"Scopes to give to every JWT of the provider, beside those in it." placeholder:"SCOPE"`
	JWTIssuers    string   `name:"jwt-issuers" help:"File of several identity providers; see docs/authentication.md." placeholder:"FILE"`
}

type checkCommand struct {
	storeFlag
	Mode     string `help:"What to verify: full, checksums, quick or auto, as serve --check has them." enum:"full,checksums,quick,auto" default:"full"`
	Worker   bool   `hidden:"" help:"Verify in this very process, which damage may end."`
	Progress bool   `hidden:"" help:"Say on file descriptor 3 how far the check has come."`
}

type backupCommand struct {
	storeFlag
	File   string    `arg:"" help:"The backup: a file that does not exist."`
	Rate   int64     `help:"Most bytes to read and to write in a second, so that pushes keep their share of the disk; 0 for no bound." default:"33554432"`
	Worker string    `hidden:"" help:"Make the backup of this copy of a store."`
	Made   time.Time `hidden:"" help:"When the copy was made."`
}

type migrateCommand struct {
	From    string `help:"Store to copy, as serve --store has it." required:"" placeholder:"STORE"`
	To      string `help:"Store to copy it to: empty, or the target of the same migration before it was interrupted." required:"" placeholder:"STORE"`
	Workers int    `help:"How many logs are copied at a time." default:"16"`
}

// backupFlags say which backups a server makes by itself.
type backupFlags struct {
	BackupDir   string        `help:"Directory on a local disk for backups that the server makes by itself; without it, it makes none." placeholder:"DIR"`
	BackupEvery time.Duration `help:"How long after one backup the next is made." default:"24h"`
	BackupKeep  int           `help:"How many of its backups the server keeps in the directory." default:"7"`
	BackupRate  int64         `help:"Most bytes to read and to write in a second for a backup, so that pushes keep their share of the disk; 0 for no bound." default:"33554432"`
}

type restoreCommand struct {
	storeFlag
	File string `arg:"" help:"The backup."`
}

type fenceCommand struct {
	storeFlag
	At string `help:"When the store was restored, as 2027-01-31T18:00:00Z; now, by default. No device can have seen a later mutation, unless the clock of the server was wrong."`
}

type userCommand struct {
	Show   userShowCommand   `cmd:"" help:"Show the log of a user, and why a device does not sync: when each was seen, up to where it knows the log, and with what it was refused last."`
	Export userExportCommand `cmd:"" help:"Write the log of a user as lines of JSON, with all that devices rely on."`
	Import userImportCommand `cmd:"" help:"Read an export into a store in which its user has no log: devices go on there without a full sync. An import that was interrupted goes on when it is run again, and its user is refused until then."`
	Erase  userEraseCommand  `cmd:"" help:"Erase all that the store has of a user, tokens included, but a gap under a hash of the name. It cannot be undone. Free pages may still hold bytes of it until compact."`
}

type userEraseCommand struct {
	storeFlag
	User string `arg:"" help:"The user."`
	Yes  bool   `help:"Do it; without this, nothing is erased."`
}

type userShowCommand struct {
	storeFlag
	User string `arg:"" help:"The user."`
	JSON bool   `name:"json" help:"Print it as JSON."`
}

type userExportCommand struct {
	storeFlag
	User string `arg:"" help:"The user."`
	File string `arg:"" help:"Where to: a file that does not exist, or - for stdout."`
}

type userImportCommand struct {
	storeFlag
	File string `arg:"" help:"The export, or - for stdin."`
	As   string `help:"The user whose log it becomes; by default the one whose it was." placeholder:"USER"`
}

type compactCommand struct{ storeFlag }

type resourcesCommand struct {
	Check resourcesCheckCommand `cmd:"" help:"Say what is wrong where in a resource file and the schema files that it names."`
}

type resourcesCheckCommand struct {
	File string `arg:"" help:"The resource file."`
}

type tokenCommand struct {
	Create tokenCreateCommand `cmd:"" help:"Make a token and print it, this once. From the first one on the server asks everybody for a token."`
	List   tokenListCommand   `cmd:"" help:"List the tokens: all but their secrets."`
	Revoke tokenRevokeCommand `cmd:"" help:"Revoke a token. It is refused at once. A server stays closed when its last token is gone."`
}

type tokenCreateCommand struct {
	storeFlag
	User    string   `help:"User whose log the token gives access to." required:""`
	Scopes  []string `help:"What the token allows: sync for everything, or sync:read for pulls only, and the scopes that resources ask for." default:"sync"`
	Expires string   `help:"When the token ends: a duration such as 720h, a date such as 2027-01-31, a time such as 2027-01-31T18:00:00Z, or never." default:"never"`
}

type tokenListCommand struct {
	storeFlag
	JSON bool `name:"json" help:"Print the list as JSON."`
}

type tokenRevokeCommand struct {
	storeFlag
	ID   string `arg:"" optional:"" help:"Id of the token, which is its second part: tm_ID_secret. The whole of it will do, too."`
	User string `help:"In place of an id: every token of this user. Of JWTs, those that were issued until now."`
}

type benchCommand struct {
	URL           *url.URL      `name:"url" help:"Address of the server." default:"http://127.0.0.1:8080"`
	Users         int           `help:"How many users' logs there are." default:"10000"`
	Connections   int           `help:"How many connections ask at the same time; each has its share of the users." default:"64"`
	Batch         int           `help:"Mutations in a push." default:"10"`
	MutationBytes int           `help:"About how many bytes of JSON a mutation has; a DELETE has fewer." default:"250"`
	Updates       float64       `help:"Percent of the mutations that change an earlier resource." default:"20"`
	Deletes       float64       `help:"Percent of the mutations that delete an earlier resource." default:"5"`
	Duration      time.Duration `help:"For how long; 0 for no bound." default:"10s"`
	Requests      int64         `help:"After how many requests to stop, if that is earlier; 0 for no bound." default:"0"`
	Pulls         float64       `help:"Percent of the requests that pull what the push before them changed." default:"0"`
	Polls         float64       `help:"Percent of the requests that ask for the head of a log only." default:"0"`
	Stale         float64       `help:"Percent of the requests that push on an old cursor, which the server must refuse." default:"0"`
	Retries       float64       `help:"Percent of the requests that send the last push again, which the server must replay." default:"0"`
	Token         string        `help:"Bearer token to send. Without --user-prefix all is done as its one user, on one connection."`
	UserPrefix    string        `help:"X-User-Id of the users, to which a number is added; they may have logs. By default it is random, so that they have none."`
	JSON          bool          `name:"json" help:"Print the report as JSON."`
}

type healthCommand struct {
	addrFlag
	TLSCert string `name:"tls-cert" help:"File of the server's certificate, if it speaks HTTPS." placeholder:"FILE"`
}

type versionCommand struct{}

type helpCommand struct {
	Command []string `arg:"" optional:"" help:"The command to explain."`
}

type addrFlag struct {
	Addr string `help:"Address of the server: host:port." default:"127.0.0.1:8080"`
}

type storeFlag struct {
	Store string `help:"Where the store is: the path of a bbolt file, which serve creates, or a PostgreSQL database as postgres://user:password@host:5432/name, which any number of servers can share." default:"tidemark.db"`
}
