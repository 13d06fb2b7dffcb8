package actors

import (
	"time"

	"github.com/quern-io/quern/failure"
)

// How long a refused caller is asked to wait.
const (
	fullRetryAfter    = 20 * time.Millisecond
	refusedRetryAfter = time.Second
)

var (
	errStopping  = failure.New(failure.Stopping, "the node is stopping; ask another one or try again later").After(time.Second)
	errNotOwner  = failure.New(failure.NotOwner, "this node does not own the key's shard").After(fullRetryAfter)
	errGivenUp   = failure.New(failure.Canceled, "the caller gave up; what the operation had asked for was given back")
	errShardFull = failure.New(failure.Overloaded, "too many operations wait on this key's shard; try again later").After(fullRetryAfter)
	errWindow    = failure.New(failure.Overloaded,
		"the session has too many operations that its client has not settled; try again when the oldest are").After(fullRetryAfter)
	errSessionFull = failure.New(failure.Overloaded,
		"the session's kept results take too much room; try again when the oldest are settled").After(fullRetryAfter)
	errSessionsFull = failure.New(failure.Overloaded, "the shard has 8192 sessions; try again later").After(time.Minute)
	errParkFull     = failure.New(failure.Overloaded, "this node has as many waiting operations as it takes; try again later").After(time.Second)
	errNoSession    = failure.New(failure.SessionExpired, "the shard has no such session: it has expired or was closed; open another one")
	errSettled      = failure.New(failure.SessionExpired, "the operation's number was settled by its client; its result is no longer kept")
	errOnceFull     = failure.New(failure.Overloaded,
		"this key has 10000 idempotency keys, or 16 MiB of their answers, younger than 10 minutes; try again later").After(time.Minute)
	errGuardsFull = failure.New(failure.Overloaded,
		"this key was written under 16 other locks within 7 days; guard it by fewer").After(time.Minute)
)
