// Package actors is the runtime of one node: shards, turns, activations, the
// output gate and the committer. It knows no other nodes and no network.
//
// # Shards and turns
//
// A shard is a Proto.Actor actor with a combining mailbox: a caller that finds
// it idle runs the turn on its own goroutine, one that finds it busy leaves its
// call and waits. Everything that belongs to a shard is touched in its turns
// only, so there are no locks: whatever comes from elsewhere (a load, a verdict
// of the store, an epoch, a sweep of timers) is posted into the mailbox as an
// event. Each life of a shard in memory has a number, its activation; an event
// carries the number under which it was asked for and is dropped under another.
//
// A grain is a state and its flags. Its kind's handler is a pure function, run
// within the turn. A handler that returns an error or panics is undone; a panic
// anywhere else restarts the shard, which then reads its states again.
//
// # The gate
//
// Turns run ahead of the disk. A grain that was changed is dirty until the next
// cut, then flying until the verdict. An answer that saw or made such a state
// waits at the gate, be it a reply or a refusal. At most one commit of a shard
// is under way; one committer gathers those of all shards. The verdicts:
//
//	done     the answers leave
//	refused  nothing was written: what is not durable is forgotten, and its
//	         answers become "not done"
//	unclear  what is not durable is forgotten, its answers become "outcome
//	         unknown", and the shard reads nothing until it has raised its epoch
//	fenced   another node has the shard: it answers NOT_OWNER from now on
//
// A store that is not durable (memory) opens the gate at once.
//
// # Kept answers
//
// The answer to an operation with an idempotency key is kept beside the grain
// for 24 hours, in the same commit as the state. The grain's table of kept
// answers is loaded by the first operation that carries a key.
//
// # Time and bounds
//
// A shard's clock starts at the later of its last commit and the wall clock, and
// runs on by the monotonic clock. What is due is found by a table of timers in
// the store; a grain that is used is expired first. Queues are bounded per shard
// (Config.QueueLimit, Config.WaitLimit), the memory by Config.ResidentLimit with
// eviction by the clock algorithm.
package actors
