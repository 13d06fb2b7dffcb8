package main

import (
	"context"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/quern-io/quern/client"
)

// remote is the flags of commands that call a node.
type remote struct {
	Addr    string        `default:"127.0.0.1:7411" env:"QUERN_ADDR" placeholder:"HOST:PORT" help:"Node to call (gRPC); several, separated by commas, stand in for each other."`
	Timeout time.Duration `default:"5s" help:"How long the whole call may take."`
	JSON    bool          `name:"json" help:"Print one line of JSON."`
}

// call connects and runs f, both within the timeout.
func (r *remote) call(ctx context.Context, a *app, f func(context.Context, connection) error) error {
	// One operation is not worth a session.
	return r.within(ctx, a, 0, client.Options{Unary: true}, f)
}

// within is call for what may wait longer than the timeout, and by a client of
// the caller's choice.
func (r *remote) within(ctx context.Context, a *app, wait time.Duration, o client.Options, f func(context.Context, connection) error) error {
	if r.Timeout <= 0 {
		return usagef("--timeout %v: must be more than 0", r.Timeout)
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout+wait)
	defer cancel()
	c, err := a.connect(ctx, "--addr", r.Addr, o)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // the answer is there or is not
	return f(ctx, c)
}

// connect dials; flag is where the address came from.
func (a *app) connect(ctx context.Context, flag, addr string, o client.Options) (connection, error) {
	for one := range strings.SplitSeq(addr, ",") {
		if _, port, err := net.SplitHostPort(strings.TrimSpace(one)); err != nil || port == "" {
			return nil, usagef("%s %q: %q is not HOST:PORT", flag, addr, one)
		}
	}
	return a.dial(ctx, addr, o)
}

// integer is a 64-bit number in decimal. Unlike the parser's own it takes no
// other base: 010 is ten.
type integer int64

// UnmarshalText implements encoding.TextUnmarshaler.
func (i *integer) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return usagef("%q is not a decimal number of 64 bits", text)
	}
	*i = integer(n)
	return nil
}

func (i *integer) pointer() *int64 {
	if i == nil {
		return nil
	}
	n := int64(*i)
	return &n
}
