// Package client speaks the protocol of a tidemark server from Go: Head, Push
// and Pull, in the words and with the errors of package mutlog.
//
// Every refusal is an *Error, which says what the server answered. Where the
// rules of the log have a name for it, the same name is found in it as on the
// server's side of the wire:
//
//	var outOfSync *mutlog.OutOfSyncError
//	switch _, err := c.Push(ctx, push); {
//	case errors.As(err, &outOfSync): // pull, look at outOfSync.Conflicts, push again
//	case errors.Is(err, mutlog.ErrUnavailable): // the same push again, later
//	}
//
// But for Watch, which follows the head of the log through lost connections,
// nothing is tried twice; and nothing is kept: a Push that is to survive a lost
// answer or a restart is stored by the caller before it is sent, and sent again
// as it was until there is an answer.
package client
