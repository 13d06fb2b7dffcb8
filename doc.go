// Package quern is a runtime of virtual actors, called grains, each of which
// owns one key. It gives every key a single writer, and a reply is a promise:
// what it says has happened, happened once, and is not lost.
//
// A program embeds a node:
//
//	node, err := quern.Open(ctx, quern.Config{DataDir: "quern-data"})
//	if err != nil {
//		return err
//	}
//	defer node.Close(ctx)
//	views, err := node.Counter("page:42").Add(ctx, 1)
//
// A node that is given addresses to listen on serves the same handles to
// clients over the network, see package client.
//
// Errors of operations are *[Error]. errors.Is(err, quern.Overloaded) tells the
// reason, [OutcomeOf] whether the operation perhaps happened all the same.
package quern
