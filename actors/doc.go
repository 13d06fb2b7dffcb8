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
// A store that is not durable (memory) opens the gate at once, and is written to
// every 50 ms: what a shard that restarts after a defect has acknowledged since
// its last commit is gone.
//
// # Kept answers
//
// The answer to an operation with an idempotency key is kept beside the grain
// for 24 hours, in the same commit as the state. The grain's table of kept
// answers is loaded by the first operation that carries a key.
//
// # Guards
//
// An operation may carry the key and the fencing token of a lock. The grain
// remembers the highest token of each lock beside its state, in a record of its
// own that goes with the same commit, and refuses lower ones; see guard.go.
//
// # Sessions
//
// A client that repeats what it has no answer to numbers its operations within a
// session, after RIFL (Lee, Park, Kejriwal, Matsushita and Ousterhout,
// "Implementing Linearizability at Large Scale and Low Latency", SOSP 2015). A
// session is a grain of a kind of the runtime's own: it is loaded, evicted, timed
// and committed like any other. It keeps the results of the client's numbers,
// each in the same commit as the state that it tells of, until the client says
// that it has settled them. So a number runs once, and all of its repeats get its
// first answer: at once, or with the first one when that becomes durable.
//
// Every commit takes all that is dirty, since a result must not be separated from
// its state. It stays bounded because the turns stop where the next commit is
// full, until the one under way has landed. A state that does not encode takes
// the results that tell of it back with it.
//
// Where we depart from the paper:
//
//   - A session is between a client and one shard, not a lease of the client with
//     the cluster. A shard gives it 128 random bits, which are durable before the
//     client hears of them. So "no record" means expired or closed, never new.
//   - Results may come in any order, within a window of 1,024 numbers above what
//     is settled and 256 KiB, beyond which is OVERLOADED.
//   - A handler's refusal is a result like any other. What was not done
//     (OVERLOADED, HANDLER_FAILED and the like) is none: the number stays free.
//   - A number is not tied to a request: who sends another one under it gets the
//     first one's answer.
//   - It expires by the shard's clock, an hour after its last use. What comes
//     later is refused with SESSION_EXPIRED, and not applied.
//   - Reads carry no number.
//
// # Columns
//
// A column is one call on many grains of a shard. It waits until all of them are
// resident, and keeps them so; then each item has its turn, one after the other.
// What is refused of an item is that item's answer. The column passes the gate
// once, when all that it saw and made is durable; in a session it is one number,
// with one result. What undoes a commit fails it as a whole. A handler that ends
// its goroutine between two items restarts the shard, so that nothing of the
// column is left in memory.
//
// Adds are a column without messages, for kinds whose states are numbers. Their
// keys come as bytes that nobody has looked at: a grain that is resident has a
// good key of this shard, any other one is checked before it is made.
//
// # Watches
//
// A watched key has a topic with its last event; a watcher remembers which one it
// has seen and comes for the last. An event is the state that a commit carries,
// made at the cut and told when the commit is done, so it passes the gate. The
// turn stores it and leaves the waking to a goroutine, the herald. Topics belong
// to an activation of the shard, which ends them with it, and outlive the
// eviction of their grains.
//
// # Transactions
//
// A transaction is one call on several grains of a shard, whose steps are run in
// one turn. It waits like a column until all of them are resident. A step that
// fails undoes those before it; since a cut is between turns and takes all that
// is dirty, a commit has all of a transaction or nothing. A state that does not
// encode takes back everything that is dirty with it. See transaction.go.
//
// # Leases
//
// With Config.Leased another one decides which shards are served, and until when
// ([Runtime.Serve], Extend, Revoke, Drain). The time from a Serve to its end is a
// tenure. It begins from the store alone; nothing in memory outlives it. What the
// turns of a batch have said, and what a commit lets go, gathers, and leaves at
// the end of the batch after one look at the clock: the lease had not ended then,
// so what the turns read before was current. Else it is withheld: "outcome
// unknown" for what changed something, NOT_OWNER for the rest, also for what
// comes, until the lease was extended. Watchers are sent away then, since the
// last event must reach them. A refusal of the machinery, which tells nothing of
// a state, leaves at once.
//
//	Serve ──► serving ──Drain──► winding ──► over: MOVING until it is revoked
//	             └──────Revoke───────┴────► over: NOT_OWNER
//
// A drain takes no more turns, commits, answers, and ends. A Revoke ends at once,
// but where the store is not durable: replies did not wait for it, so what they
// told of is written first, and a Raise of the next epoch waits for that.
//
// A shard that raises its own epoch, after an unclear commit, tells so
// (Config.OnEpoch). Where other nodes do not see the store they could give the
// same epoch to another, so there it gives the shard back instead
// (Config.OnFenced).
//
// # Time and bounds
//
// A shard's clock starts at the later of its last commit and the wall clock, and
// runs on by the monotonic clock. What is due is found by a table of timers in
// the store; a grain that is used is expired first. Queues are bounded per shard
// (Config.QueueLimit, Config.WaitLimit), the memory by Config.ResidentLimit with
// eviction by the clock algorithm. A shard has at most 8,192 sessions; one that
// was used within the last 10 seconds is not evicted.
package actors
