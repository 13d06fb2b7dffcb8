// Package owner makes a node the owner of its shards: it is the shell around
// the state machine of package lease, and the place where placement, members,
// store, runtime and authority meet.
//
// # Who does what
//
//	table ──┐                        ┌─► calls of the authority, in batches by kind
//	members ┼─► mail ─► loop ─► round┼─► Raise at the store
//	session ┘            │  ▲        ├─► Serve, Extend, Stop of the runtime
//	                     ▼  │        └─► View
//	               lease.Machine
//
// One goroutine, the loop, has the machine and all that is known. It waits for
// nothing but its mail and the next time that matters; what it does with the
// runtime must return soon. All that can wait is asked by goroutines with a time
// of their own, a bounded number of each kind, and comes back as mail: each
// request of the machine is answered, as unclear where nobody knows. A call is
// bounded by the trust that it could give, counted from when it was decided on.
//
// Two more goroutines read the table and the members, one keeps member and
// session, one compares the clock. Reads of the table wait for 10 s while every
// lock is held, and for two fifths of a delay while one is not, since its time
// may be counting somewhere. After an error, or when something was found to be
// lost, the next read begins without an index. So do both watches when calls get
// answers again after one got none: a read that waits may hang at a server that
// led before.
//
// # What belongs here
//
// The placement is a record at the authority. Whoever leads computes the next
// one from it and from the members, a moment after they have changed. A member
// that does not pass, or is not listed, is gone, but for a time after the
// authority itself was away or has forgotten something: until a delay and two
// check TTLs have passed, those who have not come back yet keep what they had.
// So after an outage each node retakes what it served. Whoever is missing is
// asked meanwhile, by every node, and is waited for only while it answers: two
// questions take a second, during which the delay of its locks is counted.
//
// A member that passes again has perhaps lost its session meanwhile, and does not
// know it yet: it could take nothing. So before a placement is written the leader
// asks who has a session. A member without one keeps what it has and gets
// nothing, and is asked for again soon. After a rejoin both watches go on at once,
// since a node that has read nothing takes no offers.
//
// An authority that was emptied is populated again: by whoever sees it first
// with a record whose base is above every epoch that it knows, by the leader
// with the placement that it knew last, and by each node with locks for what
// belongs there.
//
// # Moves
//
// A shard that is served here and belongs on another member that passes is
// offered to it, drained, and released to it by name; some tens are on their way
// at a time. The offer comes first: a receiver that does not answer costs no
// pause. One that the authority does not answer refuses. After some tries the
// shard is released without an offer, and the receiver waits for a delay. Leave
// is this for all shards at once.
//
// # States of a node
//
//	joining ──► ready ◄──► cordoned ◄── its clock is off
//	               │           │
//	               └─► draining ◄──┘ ──► left
//
// A node whose clock is off by more than [MaxSkew] keeps what it has and takes
// nothing. Under a cluster's record that does not fit, which includes another
// delay, it owns nothing until the record fits again.
//
// # Stores that are not shared
//
// What a node's own store has is current only if nobody else served in between.
// So before an epoch is raised all members that pass are asked what they know
// beside what this incarnation wrote itself; who does not answer in half a
// second does not count. What the machine's [lease.Inherit] does not let through
// is dropped before the shard is served.
//
// # What it does not do
//
// It does not answer in confirmed mode: while the authority is away for longer
// than trust lasts, nothing is served. It hands no copies of memory over. That
// its owner still answers a peer does not keep a shard from being taken once the
// hold-back is over, since without confirmed mode an owner that lost its session
// answers for nothing.
package owner
