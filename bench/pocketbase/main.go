// Command pocketbase serves PocketBase for the comparison with tidemark: one
// collection that everybody may create records in, and the batch API. It is a
// module of its own so that PocketBase is no dependency of tidemark.
//
//	pocketbase DIR
//
// It keeps its data in DIR, listens on a free port of the loopback interface,
// prints its address, and ends with SIGTERM.
package main

import (
	"fmt"
	"net"
	"os"

	"github.com/pocketbase/pocketbase"
	"github.com/pocketbase/pocketbase/apis"
	"github.com/pocketbase/pocketbase/core"
	"github.com/pocketbase/pocketbase/tools/types"
)

func main() {
	if len(os.Args) != 2 {
		fail("usage: pocketbase DIR")
	}
	app := pocketbase.NewWithConfig(pocketbase.Config{DefaultDataDir: os.Args[1], HideStartBanner: true})
	if err := app.Bootstrap(); err != nil {
		fail(err)
	}
	if err := app.RunAllMigrations(); err != nil {
		fail(err)
	}
	if err := settings(app); err != nil {
		fail(err)
	}
	if err := collection(app); err != nil {
		fail(err)
	}
	app.OnServe().BindFunc(func(e *core.ServeEvent) (err error) {
		e.InstallerFunc = nil // it would open a browser
		if e.Listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return err
		}
		fmt.Printf("http://%s\n", e.Listener.Addr())
		return e.Next()
	})
	if err := apis.Serve(app, apis.ServeConfig{HttpAddr: "127.0.0.1:0"}); err != nil {
		fail(err)
	}
}

// settings makes PocketBase as fast as its settings allow: no log of requests,
// no limit of rates; batches are off by default. Everything else, its SQLite
// above all, is as it comes: WAL and synchronous=NORMAL, which does not sync a
// commit to disk.
func settings(app core.App) error {
	s := app.Settings()
	s.Batch = core.BatchConfig{Enabled: true, MaxRequests: 1000, Timeout: 30}
	s.Logs.MaxDays = 0
	s.RateLimits.Enabled = false
	return app.Save(s)
}

// collection makes a place for mutations, with the index that finds a user's.
func collection(app core.App) error {
	c := core.NewBaseCollection("mutations")
	c.CreateRule = types.Pointer("") // everybody
	c.Fields.Add(
		&core.TextField{Name: "user", Required: true},
		&core.TextField{Name: "type", Required: true},
		&core.TextField{Name: "resource", Required: true},
		&core.TextField{Name: "resourceId", Required: true},
		&core.JSONField{Name: "data"},
		&core.AutodateField{Name: "created", OnCreate: true},
	)
	c.AddIndex("mutations_user", false, "user, created", "")
	return app.Save(c)
}

func fail(what any) {
	fmt.Fprintln(os.Stderr, "pocketbase:", what)
	os.Exit(1)
}
