// Package routing lets any node take any operation. One whose shard is served
// here goes to the runtime as if there were no other node; any other is passed on
// to the shard's owner, over one stream for each node that owns something. The
// stream is the clients' own (package internal/frameconn): operations of all who
// call share its frames, with the numbers, deadlines and bytes that they came
// with.
//
// # Who owns what
//
// The table has an entry for each shard: owner, address and epoch. An entry is
// never replaced by one of a lower epoch. It is fed by the View, by the owners
// that other nodes name when they refuse an operation, and, while the View is not
// fresh, by the tables of the other members, who are asked every 500 ms.
//
// # What becomes of an operation
//
//	          served here
//	arrives ──────────────► local ──────────────────────────► answered
//	   │                      │ NOT_OWNER, MOVING                ▲
//	   │ owner known          ▼                                  │
//	   ├────────────────► held ◄──────────────┐                  │
//	   │  not connected     │ the table says  │ not written, or  │
//	   │                    ▼ who             │ may be repeated  │
//	   └─────────────────► passed on ─────────┴──────────────────┘
//	                        frame, owner's answer
//
// What nobody serves at present is held, for at most 5 s and its deadline, in a
// buffer that is bounded in number and bytes. It goes on as soon as the table
// changes. What is left is answered with MOVING: not done. What comes back after
// more than a second, such as a wait whose shard moves once more, is held anew;
// what does not wait, and comes back since the stream broke, is not.
//
// Where the stream to an owner breaks, what was not handed to it is not done and
// is routed again. What was handed over is perhaps done: a read, a numbered
// operation and one with an idempotency key are sent again as they were, to
// whoever owns the shard then; any other one ends with OUTCOME_UNKNOWN. A refusal
// of a repeat says nothing of the first attempt, and becomes OUTCOME_UNKNOWN too,
// unless it is one that the shard keeps.
//
// An operation that another node has passed on is never held: the first node holds
// it. Where it comes to a node that is not the owner it is passed on at most three
// times, then refused with NOT_OWNER, which names the owner. Sessions are opened
// and closed at the owner only by the node that the client is connected to.
//
// Operations of one client may overtake each other, as they may on one node.
//
// # Bounds
//
// Of each stream: the owner's window; behind it 16,384 operations and 8 MiB, then
// OVERLOADED. Held: 16,384 and 16 MiB over all shards, then MOVING with a
// retry-after. A stream that is silent for a second is pinged and given up two
// seconds later. A node that cannot be reached is tried again after 20 to
// 200 ms.
//
// # Metrics
//
//   - quern_routing_passed_total: operations handed to another node, each time;
//   - quern_routing_repeated_total: those that were sent again although they were
//     perhaps done;
//   - quern_routing_held_total, quern_routing_held: operations that had to wait for
//     an owner, and that wait now;
//   - quern_routing_refused_total: those whose wait was in vain;
//   - quern_routing_peers: streams to other nodes that are up.
package routing
