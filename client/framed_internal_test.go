package client

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// addresses are what a dial of each comes to.
type addresses struct {
	mu    sync.Mutex
	tried []string   // guarded by mu
	open  []net.Conn // guarded by mu
}

func (a *addresses) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	a.mu.Lock()
	a.tried = append(a.tried, addr)
	a.mu.Unlock()
	switch addr {
	case "refuses":
		return nil, errors.New("refused")
	case "silent":
		<-ctx.Done()
		return nil, ctx.Err()
	case "slow": // it answers although it is not wanted any more
		<-ctx.Done()
	}
	near, _ := net.Pipe()
	a.mu.Lock()
	a.open = append(a.open, near)
	a.mu.Unlock()
	return near, nil
}

func TestConnectFirst(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		addrs, tried []string
		takes        time.Duration
		fails        bool
	}{
		{addrs: []string{"a", "b"}, tried: []string{"a"}},
		{addrs: []string{"refuses", "b", "c"}, tried: []string{"refuses", "b"}},
		{addrs: []string{"silent", "b"}, tried: []string{"silent", "b"}, takes: headStart},
		{addrs: []string{"slow", "slow", "c"}, tried: []string{"slow", "slow", "c"}, takes: 2 * headStart},
		{addrs: []string{"refuses", "refuses"}, tried: []string{"refuses", "refuses"}, fails: true},
		{addrs: []string{"silent"}, tried: []string{"silent"}, takes: dialTimeout, fails: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			var a addresses
			began := time.Now()
			got, err := connectFirst(t.Context(), tt.addrs, a.dial)
			if (err != nil) != tt.fails || !slices.Equal(a.tried, tt.tried) || time.Since(began) != tt.takes {
				t.Errorf("%v: %v, tried %v in %v", tt.addrs, err, a.tried, time.Since(began))
			}
			for _, c := range a.open {
				if c == got {
					continue
				}
				if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) && err.Error() != "io: read/write on closed pipe" {
					t.Errorf("a connection was left open: %v", err)
				}
			}
			if got != nil {
				_ = got.Close()
			}
		})
	}
}
