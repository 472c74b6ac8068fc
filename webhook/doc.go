// Package webhook tells a URL of each push: whose log has changed, and its new
// head. It is for services that wake phones, which must hear of changes without
// a stream for each device.
//
// Requests are signed as the Standard Webhooks specification has it:
// docs/webhooks.md says how they are checked. They are hints like all news of
// heads: those of one user that wait become one, what cannot be delivered for
// long is given up, and what waits when the process ends is lost.
package webhook
