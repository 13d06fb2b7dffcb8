// Package bench measures a Quern target and checks it while it does so. It
// generates load through a handles.Invoker, which a node in this process and
// a network client both are, and it prints nothing: [Run] returns a [Result]
// and [Result.WriteDir] writes it with its histogram and a report.
//
// # Load
//
// A run has as many workers as Config.Concurrency says, each with at most one
// operation under way. In a closed loop a worker sends the next operation when
// it has the answer to the last one. With a rate the loop is open: operation i
// is due at start + i/rate whatever the target does, the first free worker
// takes it, and its latency counts from the time at which it was due, so that
// a target that stalls is charged for everything that it held up (what Gil
// Tene calls coordinated omission does not happen). There is no queue: a
// backlog is the difference between what was due and what was sent, and what
// is left of it at the end is reported, not sent.
//
// Latency is recorded, in nanoseconds, for operations that were done and for
// those of unknown outcome. Refusals (errors) are counted but not timed.
//
// # Check
//
// Every key is read before the load and after it. For each key the change must
// lie between the adds that were acknowledged and those plus the adds of
// unknown outcome. What is missing counts as lost, what is too much as
// doubled; that includes what others do to these keys. During the load each
// reply is checked too: a counter that is only added to never goes back under
// what was answered before, a key that nobody writes keeps its value, a new key
// starts at 0, and in counter-hot no value is answered twice. A reply that
// breaks one of these rules is a violation. [Result.OK] is false where anything
// was lost, doubled or in violation, or where a key could not be read back.
//
// Keys that had no value before the run expire an hour after it.
package bench
