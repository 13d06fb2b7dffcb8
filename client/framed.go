package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/quern-io/quern/internal/frame"
	"github.com/quern-io/quern/internal/frameconn"
)

const (
	// headStart is how long an address is tried before the next one is tried
	// beside it.
	headStart = 250 * time.Millisecond
	// answerTimeout bounds the wait for the answer to the preface. What does
	// not speak the protocol mostly says so, or leaves, at once.
	answerTimeout = 3 * time.Second
)

// openFramed opens a stream over a TCP connection of its own, to the first of the
// addresses that answers. It fails with frameconn.ErrNotSpoken where the other end
// speaks gRPC at most.
func (c *Client) openFramed(ctx context.Context, addrs ...string) (frame.Stream, error) {
	conn, err := connectFirst(ctx, addrs, tcpDialer.DialContext)
	if err != nil {
		return nil, err
	}
	f, err := frameconn.Dial(ctx, conn, answerTimeout, frameconn.Config{MaxFrame: c.options.MaxMessageBytes})
	if err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	return &framed{Conn: f, stop: context.AfterFunc(ctx, f.Close)}, nil
}

// framed ends with the context under which it was opened.
type framed struct {
	*frameconn.Conn

	stop func() bool
}

// Close implements frame.Stream.
func (f *framed) Close() {
	f.stop()
	f.Conn.Close()
}

// attempt is what came of dialling an address.
type attempt struct {
	conn net.Conn
	err  error
}

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// connectFirst connects to the first address that answers.
func connectFirst(ctx context.Context, addrs []string, dial dialFunc) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	results := make(chan attempt, len(addrs))
	next := time.NewTimer(0)
	defer next.Stop()
	var failed []error
	for started := 0; len(failed) < len(addrs); {
		select {
		case <-next.C:
			if started < len(addrs) {
				go func(addr string) {
					conn, err := dial(ctx, "tcp", addr)
					results <- attempt{conn: conn, err: err}
				}(addrs[started])
				started++
				next.Reset(headStart)
			}
		case r := <-results:
			if r.err != nil {
				failed = append(failed, r.err)
				next.Reset(0)
				continue
			}
			cancel()
			for range started - len(failed) - 1 {
				if late := <-results; late.err == nil {
					_ = late.conn.Close()
				}
			}
			return r.conn, nil
		}
	}
	return nil, errors.Join(failed...)
}

// tcpDialer lets the system notice a node that has vanished.
var tcpDialer = net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
	Enable: true, Idle: time.Second, Interval: time.Second, Count: 2,
}}
