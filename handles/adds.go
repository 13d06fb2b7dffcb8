package handles

import (
	"time"

	"github.com/quern-io/quern/keyspace"
)

// Adds are adds to counters of one shard, each by itself: what a bulk add is
// there, without messages. In a session they are one number.
type Adds struct {
	// Origin has the shard, of which all keys are to be. The rest is filled in
	// but for the epoch.
	Origin   Origin
	Session  Session
	Memo     *Memo // of the session; may be nil
	Deadline time.Time
	// Key i lies in Text at Spans[i]. The keys need not have been looked at.
	Text  []byte
	Spans []keyspace.Span
	// Deltas are as many as keys; nil adds 1 to each.
	Deltas []int64
	// Result gets the encoded CounterServiceAddManyResponse: what was there
	// before is overwritten.
	Result []byte
	Done   Completer
}

// AddsSubmitter begins adds without waiting for them.
type AddsSubmitter interface {
	// SubmitAdds begins adds, of which Done hears as of [Submitter.Submit].
	// After an error that says "not done", nothing was done to any key. a
	// belongs to the adds until then.
	SubmitAdds(a *Adds)
}
