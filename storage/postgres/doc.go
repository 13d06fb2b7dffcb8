// Package postgres keeps states in a PostgreSQL server, or in a distributed
// engine that speaks its protocol and its SQL. What Commit acknowledged is there,
// as durable as the server's synchronous_commit says, at least on its own disk.
//
// # Tables
//
// In a schema of their own, "quern" unless the URL says otherwise:
//
//	meta    one row: format, cluster id, number of shards, hash; owner, the
//	        lone node that has not said goodbye; cluster, the name of the one
//	        whose members share the store
//	shards  a row per shard: epoch, incarnation, time of the last commit
//	states  (shard, key) → value, all bytes: U+0000 is legal in a key
//
// The first to open an empty schema makes them, in one transaction under an
// advisory lock, so that several nodes may start at once.
//
// # Life of a commit
//
// One transaction for all its shards, in two round trips:
//
//	begin; take the rows of the shards, in their order, FOR NO KEY UPDATE
//	upsert; delete; set the rows' times; commit
//
// A batch whose epoch is not its row's is left out and Fenced. From the check to
// the end of the transaction nobody can raise the epoch: a raise takes the row in
// the same way, and so waits for the commit, or the commit waits for the raise
// and then sees its epoch. A plain SELECT or FOR KEY SHARE would let an owner
// commit after the next one has loaded.
//
// What fails, fails as narrowly as it can:
//
//   - Another transaction holds a row for longer than LockTimeout: that shard is
//     Refused, the others commit.
//   - The server refuses a record: halves of the commit are tried until its shard
//     is alone, which is Refused with the record's name.
//   - Nothing was sent to be committed, or the server says that it rolled back:
//     tried again for as long as Patience, then Refused.
//   - The answer to the commit does not come, or with a warning (a wait for a
//     synchronous standby that was cut short): Unclear.
//
// # Which server
//
// Every new connection is refused unless it is to a primary of version 13 or
// newer with fsync and synchronous_commit on; of the hosts in the URL the next
// one is tried. fsync is looked at again in every commit. synchronous_commit is
// fixed for the session.
//
// A server can also be the wrong one. The store remembers, for each shard that it
// has raised, the epoch and the server's line: system identifier and timeline. A
// commit, a read, a scan or a compare-and-set on another line, or at a row whose
// epoch is lower, fails with ErrTimeline or ErrBackwards, which stops the shard:
// the server was promoted or restored and perhaps lacks what was acknowledged. A
// claim without a compare-and-set, as at a start, takes the server as it is.
//
// # A lone node
//
// Without Consul one node may use a schema. It holds an advisory lock on a
// connection of its own:
//
//	         proof every 0.5 s, or when another connection is lost
//	held ──no answer for 2 s, or not held──► lost ──OnLost──► waiting ──taken──► held
//
// OnLost is to stop what serves. Raise waits for the lock, so that nothing is
// answered before the lock is back and the epoch was raised by a compare-and-set.
// Whoever finds that the owner before did not say goodbye waits 3 s, in which an
// owner that lives has noticed. OnProof says until when the owner may answer, 2.7 s
// from the start of the proof, so that one that was stopped meanwhile, or whose
// machine was, answers nothing until the next proof.
//
// # Members of a cluster
//
// With Consul any number of nodes may use a schema. Who owns which shard is told
// by leases; the store has the epochs, which fence whoever is wrong about that.
// Each of their connections holds the lone node's advisory lock in shared mode.
// A member that has raised an epoch raises none on another line, nor one above a
// row that went back, until it was restarted.
//
// The server gives such locks back when it has ended the session. Close waits for
// that, 2 s at most for each of its steps, so that the next one to open the store
// finds it free.
//
// # Bounds
//
//   - 16 connections per node (pool_max_conns in the URL), and one of the lone
//     node: a server with its usual 100 connections takes six members at most.
//   - An attempt takes at most Timeout (10 s), a call at most Patience (5 s) more.
//   - A key has at most 2,600 bytes, which an index entry can take, a value
//     MaxValueBytes. Statements are cut at 8 MiB.
//   - A page of a scan is about 4 MiB.
//   - The server ends a transaction whose client says nothing for 3 s.
package postgres
