// Package admin lets operators change a store, whether or not a server runs on
// it. There is one handler of requests over a store. A server offers it on a
// socket beside its store, for whoever may open that file; a command asks it
// there, or, where no server has the store, opens the store and asks the same
// handler within its own process.
//
// openapi-admin.yaml describes the requests.
package admin
