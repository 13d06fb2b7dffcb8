// Package client reaches a Quern node or cluster over the network. [Dial]
// returns a [Client], which runs operations like a node in the same process:
// the handles of package handles work on both.
//
// # What a failure says
//
// Every method returns a *failure.Error, so that errors.Is(err,
// failure.Overloaded) reads the same on a node and here, and
// failure.OutcomeOf tells "not done" from "perhaps done":
//
//   - what a node answered comes back with its reason and retry time;
//   - a call that left this process on no connection is not done, can be
//     repeated, and wraps [ErrUnreachable];
//   - a call whose connection broke is OUTCOME_UNKNOWN;
//   - the end of the caller's context is DEADLINE_EXCEEDED or CANCELED, both
//     perhaps done, and wraps the context's error.
//
// # Repeats
//
// The client repeats nothing that could have happened. gRPC's configured
// retries are off, and service configs from resolvers are ignored. What stays
// is gRPC's transparent retry, which cannot be switched off. It sends a call
// again in three cases, in all of which no handler has seen it: no stream was
// opened for it; the server refused the stream (REFUSED_STREAM); or the server
// left with a GOAWAY that names a lower stream as the last one that it works
// on. The last two are statements of the server, and Quern's holds to them: a
// stream that was dispatched is never refused and always below the GOAWAY's
// mark. A connection that breaks without such a word ends its calls with
// OUTCOME_UNKNOWN.
//
// # Connections
//
// There is one connection, to the first address that answers, and the next
// one in order is tried when it breaks; breaks of a few milliseconds up to a
// second lie between attempts. A dead machine or a cut network is noticed
// within about three seconds (TCP keepalive every second, and
// TCP_USER_TIMEOUT for what was sent), a stopped process within about 13 (an
// HTTP/2 ping after ten seconds without a frame, which is the shortest time
// that grpc-go allows a client).
package client
