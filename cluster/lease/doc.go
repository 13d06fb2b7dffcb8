// Package lease decides when a node acquires shards, answers for them and gives
// them up. It is a state machine without I/O, goroutines or a clock: a shell
// tells it what happened and when, by CLOCK_BOOTTIME, which runs on while the
// process is stopped, and carries out what it decides.
//
// # The promise
//
// At no time two nodes answer for one shard, and the epochs under which it is
// answered for rise. It rests on time, and behind it on the store.
//
// Time: a proof finds a lock held at some moment after it began. Whoever finds
// the lock free finds it so later, and waits for a whole delay from when it
// learnt of it. The owner trusts its lock for the delay less a margin from when
// the proof began. So its trust ends before the wait does, if the clocks of both
// run at nearly the same rate: their rates may differ by Margin / Delay.
//
// The store: an epoch is above all that the node knows of, and is raised at the
// store before anything is answered under it. The store refuses what is not above
// its own. So an owner of whom the authority has lost the trace is found there,
// and a stale one cannot write even where clocks are wrong.
//
// # A shard
//
//	          seen free for a delay,            the store has
//	          or left to this node              the epoch
//	not held ───────────────────────► held ────────────────────► served
//	   ▲  ▲        Acquire             │  ▲  Raise, then Serve      │
//	   │  └────────────────────────────┘  │                         │
//	   │   not found, session lost,       └─────────────────────────┤
//	   │   released                        trust ran out, or a      │
//	   │                                   higher epoch is known    │
//	   └────────────────────────────────────────────────────────────┘
//
// The way back from served to held costs what the way from not held did: trust
// that ran out does not return with the next proof, since that proof finds the
// same session and value also where the lock was another's in between and an
// older state of the authority was brought back. The node waits for a delay from
// when the first answer after the gap came, writes a new epoch into the lock
// ([Rewrite]) and raises it from its own last one, which tells whether what it
// has in memory is current.
//
// # The wait
//
// The count of a free lock runs on while every read finds it unchanged. It begins
// anew when the index of the authority fell, the cluster's record is another, or
// the last read is older than a delay; stale reads are none. Where that happens
// between the last read and the acquisition, the first read after it tells, and
// the wait begins with the news. Where the store or a peer knows of an epoch that
// the lock did not, the wait begins with the acquisition.
//
// There is no wait for a clean release that names this incarnation, if its owner
// offered the shard to it less than a delay ago and no higher epoch is known.
//
// # What comes back
//
// Every request is handed back with its outcome, and carries the number under
// which it was asked: answers to what is no longer under way change nothing. An
// acquisition or a rewrite whose outcome is unclear is not had; where a read shows
// the lock held by this session all the same, it is released, and not cleanly. A
// release is final whatever becomes of it.
//
// # What it does not do
//
// It does not choose which shards are wanted, and so neither paces moves nor holds
// back after an outage. It does not answer in confirmed mode, which needs no
// trust: after a [Stop] that is [Lapsed] or [SessionEnded] the shell may go on in
// it. It relies on a delay that is one for all nodes; a node whose cluster has
// another one must start anew.
package lease
