// Package events tells whoever waits that the log of a user has moved on: the
// streams of GET /v1/sync/events and the pulls that wait. It hears from the
// store of the pushes that any node made durable, and knows nothing of HTTP.
//
//   - What is told is a hint to pull, the head of a log and never its data.
//     Heads that come faster than they can be told become one, the highest; the
//     last one is always told.
//   - Whoever waits first subscribes and then looks at the head of the log, so
//     that no change falls between the two. When the store may have missed
//     something, the heads of all who wait are looked at again.
//   - No push waits for anybody here: to hear of one is to note a number and, at
//     most, to start a goroutine.
//   - An idle stream costs a few hundred bytes, and no goroutine or timer of its
//     own.
package events
