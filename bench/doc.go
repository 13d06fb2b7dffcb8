// Package bench measures a Quern target and checks it while it does so. It
// generates load through a handles.Invoker, which a node in this process and
// a network client both are, and it prints nothing: [Run] returns a [Result]
// and [Result.WriteDir] writes it with its histogram and a report.
//
// # Load
//
// A run has as many workers as Config.Concurrency says. Each sends a round of
// Config.Pipeline operations together and waits until all are answered; by
// default a round is one operation. In counter-columns a round is one bulk add,
// and each of its keys counts as an operation. In a closed loop a worker sends
// the next round when the last one is answered. With a rate the loop is open: a
// round is due as a whole, round i at start + i*pipeline/rate whatever the
// target does, the first free worker takes it, and its latency counts from the time at which it was due, so that
// a target that stalls is charged for everything that it held up (what Gil
// Tene calls coordinated omission does not happen). There is no queue: a
// backlog is the difference between what was due and what was sent, and what
// is left of it at the end is reported, not sent.
//
// Latency is recorded, in nanoseconds, for operations that were done and for
// those of unknown outcome; it is that of their round. Refusals (errors) are counted but not timed.
//
// # Several processes
//
// With Config.Processes the load comes from processes of their own ([Helper],
// [Help]), to which this one gives orders and from which it hears one JSON
// value after the other. This process prepares the keys and tells their values;
// the helpers apply the load, each with a share of the workers and of the rate,
// to the same keys (where each key is used once they take turns), and hand back
// their histograms, what they know of each key, and in counter-hot every reply.
// The check is then the same as of one process: it adds up what was
// acknowledged per key over all of them. What a process did that died is known
// to nobody, so that every key may have been added to: nothing counts as
// doubled then, what the others were promised can still be lost, and the run
// has failed.
//
// # Check
//
// Every key is read before the load and after it. For each key the change must
// lie between the adds that were acknowledged and those plus the adds of
// unknown outcome. What is missing counts as lost, what is too much as
// doubled; that includes what others do to these keys. During the load each
// reply is checked too: a counter that is only added to never goes back under
// what was answered before its round was sent, a key that nobody writes keeps its value, a new key
// starts at 0, and in counter-hot no value is answered twice. A reply that
// breaks one of these rules is a violation. [Result.OK] is false where anything
// was lost, doubled or in violation, where a key could not be read back, or
// where a process died.
//
// In map-put each value names its worker and the worker's put. A put's version
// must be above all that were answered for its key before it was sent. The
// value that is read back must be that of the put with the highest version that
// was acknowledged, under that version, or under a higher one that of a put of
// unknown outcome. The last put of a key stands for those before it, which
// leave nothing to compare: a key whose last put is not there counts as one
// that was lost, a key with a value that has no business to be there as one
// that was doubled. In map-get version and value of every key must stay.
//
// In lock-cycle and lock-contended an operation is a lock that is taken and given
// back; they run in one process, whose memory is the witness. Whoever is granted
// a lock writes itself in, and out before it sends the release: two at one time,
// or a token that is not above all earlier ones, is a violation. A lock that is
// held after the load though its release was acknowledged counts as lost, one
// that somebody else holds or waits for as doubled.
//
// Keys that had no value before the run expire an hour after it.
package bench
