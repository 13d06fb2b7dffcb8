// Package client reaches a Quern node or cluster over the network. [Dial]
// returns a [Client], which runs operations like a node in the same process:
// the handles of package handles work on both.
//
// # Many at once
//
// Operations travel on a stream of frames. Those of callers that call at the
// same time share a frame by themselves; a caller alone waits for nobody.
// Whoever has several in hand sends them together: handles.Batch,
// handles.AddMany, [Client.InvokeAll].
//
// # Repeats
//
// Writes are numbered in a session at the key's shard (after RIFL: Lee et al.,
// SOSP 2015), which is opened when the first one needs it. The node keeps the
// answers, so that the client sends an operation again where it was refused for
// a while, where its outcome is unknown, or where the stream broke, and it
// still counts once. It does so until the context's deadline, or for
// Options.Patience where there is none. A write that carries an idempotency key
// needs no number, a read neither.
//
// A session lasts an hour after its last use, and over a restart of a node
// whose store is durable. Of a repeat that comes too late nobody can say
// whether the first attempt happened: it is OUTCOME_UNKNOWN, never applied
// again.
//
// # Watches
//
// A watch (handles.Counter.Watch and the like) is a stream of its own on the
// first connection. It is read all the time, so that its caller finds the last
// event, and begun anew where it breaks, ends with NOT_OWNER or STOPPING, or is
// silent for 25 s, with pauses of 10 ms up to a second, for as long as its
// context lasts. Only a refusal before the first event ends it: what is too
// much for the node, and what can never be.
//
// # What a failure says
//
// Every method returns a *failure.Error, so that errors.Is(err,
// failure.Overloaded) reads the same on a node and here, and
// failure.OutcomeOf tells "not done" from "perhaps done":
//
//   - what a node answered comes back with its reason and retry time;
//   - UNREACHABLE was sent to no node, is not done, and wraps
//     [ErrUnreachable];
//   - OUTCOME_UNKNOWN was sent at least once, and no answer came that would
//     tell;
//   - the end of the caller's context is DEADLINE_EXCEEDED or CANCELED, both
//     perhaps done, and wraps the context's error.
//
// # Connections
//
// A client keeps one connection, or Options.Connections of them for the same
// sessions. Each goes to the first address that answers; the next one in order
// is tried when it breaks, with pauses of 20 ms up to a second. While the node
// owes an answer and has said nothing for a second it is pinged on the stream,
// and two seconds later the connection is given up; an idle one is tried after
// Options.KeepAlive.
//
// The stream goes over a TCP connection of its own, on the node's gRPC port,
// and over gRPC where the other end does not answer to that, as an older node or
// a proxy, or where Options.GRPC asks for it. Status and Where are gRPC calls,
// for which a second connection is made when they are first used.
//
// # Unary calls
//
// With Options.Unary every operation is a call of its own, outside of any
// session. It is repeated only where gRPC knows that no handler has seen it:
// no stream was opened for it, the server refused the stream, or it left with
// a GOAWAY that names a lower one. A call whose connection breaks is
// OUTCOME_UNKNOWN.
package client
