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
	errShardFull = failure.New(failure.Overloaded, "too many operations wait on this key's shard; try again later").After(fullRetryAfter)
	errOnceFull  = failure.New(failure.Overloaded,
		"this key has 10000 idempotency keys younger than 10 minutes; try again later").After(time.Minute)
)
