package client

import (
	"time"

	"github.com/VictoriaMetrics/metrics"
)

const (
	defaultKeepAlive       = 10 * time.Second
	defaultMaxMessageBytes = 16 << 20
	defaultPatience        = 10 * time.Second
)

// Options tune a client. Zero means the default, negative means off.
type Options struct {
	// KeepAlive is the silence after which an idle connection is tried. While
	// operations are under way it is a second. Default 10 s.
	KeepAlive time.Duration
	// MaxMessageBytes bounds what a node sends at a time. A larger message
	// ends its stream; a node sends little more than 1 MiB, or one reply.
	// Default 16 MiB.
	MaxMessageBytes int
	// FailFast lets Dial give up when every address was tried once. Without
	// it Dial sits out the start of a node, until its context ends.
	FailFast bool
	// Patience is how long an operation whose context has no deadline waits
	// for a node and is tried again. It does not bound an attempt that a node
	// is working on. Default 10 s; negative is no wait while no node can be
	// reached, and no second attempt, whatever the context allows.
	Patience time.Duration
	// Connections is how many connections to the node the client keeps, all
	// for the same sessions. One is enough for most; a few more let the node
	// use more of its cores for this client: callers go to the next one when
	// the frame that gathers on one is sent or has 16 KiB. Default 1.
	Connections int
	// Unary sends each operation as a call of its own, outside of any
	// session: what one command of a shell wants. Nothing is tried again that
	// perhaps happened.
	Unary bool
	// OneNode sends everything to the nodes that Dial names. Without it the
	// client finds out who owns what in a cluster, and keeps a stream to each
	// owner. So it is with GRPC, too.
	OneNode bool
	// GRPC carries the stream over gRPC also where the node takes it over a
	// TCP connection of its own, which costs both ends less.
	GRPC bool
	// Metrics gets the client's metrics; nil registers none.
	Metrics *metrics.Set
	// Hooks are told what happens.
	Hooks Hooks
}

// Hooks are functions that are called on a client's events, where they are
// set. They must return at once and not call the client.
type Hooks struct {
	// Connected is called with the name of the node that a stream leads to.
	Connected func(node string)
	// Disconnected is called when a stream breaks.
	Disconnected func(err error)
	// Retried is called when an attempt at an operation failed and another
	// one follows.
	Retried func(method string, err error)
}

func (o Options) withDefaults() Options {
	if o.MaxMessageBytes == 0 {
		o.MaxMessageBytes = defaultMaxMessageBytes
	} else if o.MaxMessageBytes < 0 {
		o.MaxMessageBytes = 1<<31 - 1
	}
	if o.Connections <= 0 {
		o.Connections = 1
	}
	if o.KeepAlive == 0 {
		o.KeepAlive = defaultKeepAlive
	}
	if o.Patience == 0 {
		o.Patience = defaultPatience
	}
	return o
}
