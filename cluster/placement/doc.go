// Package placement computes which shard belongs on which node. It is pure:
// the holder of the cluster's lock on the placement calls it with the record
// as it stands and the members, and writes what comes of it.
//
// What holds of every record that [Record.Next] returns:
//
//   - The active members, which are neither cordoned nor draining, have as many
//     shards as each other, or one more. Where there are more of them than
//     shards, those without one stand by.
//   - No shard moves without need: of all assignments that are even in this
//     sense it is one of those that leave most shards where they are. So a join
//     moves at most ceil(S/(N+1)) shards, all to the one who joins, and a leave
//     moves the leaver's alone.
//   - A cordoned member keeps what it has and gets nothing more. A draining one
//     gives away all that it has, as soon as there is an active member to take
//     it.
//   - The same record and the same members, in any order, give the same record.
//
// No function of the members alone can do this, hence the record: it is a
// history, and consistent hashing with bounded loads (Mirrokni, Thorup and
// Zadimoghaddam, SODA 2018) decides only what evenness leaves open. Members and
// shards are points on a ring of 64-bit hashes, a member at 32 places. A shard
// goes to the first member after its point that has room, where room ends at
// the even load rather than at some percentage above it. Members that have too
// much give away what lies nearest to those with room, seen from where it lies
// to its owner. So the shards of a lost node are spread over all others, and a
// node that comes back under its name gets back much of what it had.
//
// The hashes are no part of the format: what they decided is in the record.
package placement
