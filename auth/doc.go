// Package auth says who is asking, and what they may do. It knows nothing of
// HTTP servers: package server hands it the text of a credential and gets a
// Principal, or an error that says no.
package auth
