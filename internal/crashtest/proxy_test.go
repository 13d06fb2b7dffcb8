package crashtest

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// silence is how long a silent connection stays up.
const silence = 4 * time.Second

// proxy lies between clients and a node, and does to their connections what
// networks do: it delays them, cuts them, ends them in one direction and lets
// them fall silent. All of it comes from a seed.
type proxy struct {
	to      string
	lis     net.Listener
	running sync.WaitGroup
	stop    chan struct{}

	mu    sync.Mutex // guards what follows
	rand  *rand.Rand
	conns int
	done  map[string]int // what was done, and how often
}

// startProxy listens on a free port of its own until the test ends.
func startProxy(t *testing.T, to string, chance *rand.Rand) *proxy {
	t.Helper()
	var config net.ListenConfig
	lis, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{
		to: to, lis: lis, stop: make(chan struct{}), done: make(map[string]int),
		rand: rand.New(rand.NewPCG(chance.Uint64(), 0)),
	}
	p.running.Go(p.accept)
	t.Cleanup(func() {
		close(p.stop)
		_ = lis.Close()
		p.running.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.lis.Addr().String() }

func (p *proxy) accept() {
	for {
		near, err := p.lis.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.serve(near.(*net.TCPConn)) }) //nolint:errcheck,forcetypeassert // of a TCP listener
	}
}

// fault is what will happen to one connection.
type fault struct {
	what  string
	up    bool          // it counts the client's bytes, and concerns them
	bytes int           // when these have passed
	delay time.Duration // of each piece, at most
}

func (p *proxy) draw() fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns++
	kinds := []string{"cut", "cut", "half-close", "silence", "none"}
	return fault{
		what: kinds[p.rand.IntN(len(kinds))], up: p.rand.IntN(2) == 0,
		bytes: 1 << (4 + p.rand.IntN(13)), delay: time.Duration(p.rand.IntN(3)) * time.Millisecond,
	}
}

func (p *proxy) note(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done[what]++
}

func (p *proxy) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return fmt.Sprintf("%d connections, %v", p.conns, p.done)
}

// serve carries one connection until it ends.
func (p *proxy) serve(near *net.TCPConn) {
	defer near.Close()
	conn, err := net.Dial("tcp", p.to) //nolint:noctx // loopback: it is there or not
	if err != nil {
		p.note("node away")
		return
	}
	far, _ := conn.(*net.TCPConn)
	defer far.Close()
	ended := make(chan struct{})
	defer close(ended)
	p.running.Go(func() {
		select {
		case <-p.stop:
		case <-ended:
		}
		_ = near.Close()
		_ = far.Close()
	})
	f := p.draw()
	var both sync.WaitGroup
	for _, up := range []bool{true, false} {
		from, to, mine := far, near, f
		if up {
			from, to = near, far
		}
		if mine.up != up {
			mine.what = "none"
		}
		both.Go(func() {
			if p.carry(from, to, mine) {
				_ = to.CloseWrite()
				return
			}
			_ = near.Close()
			_ = far.Close()
		})
	}
	both.Wait()
}

// carry copies one direction until it ends or the fault is due. It returns true
// where the other direction may go on.
func (p *proxy) carry(from, to *net.TCPConn, f fault) bool {
	passed, buffer := 0, make([]byte, 4096)
	for {
		n, err := from.Read(buffer)
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			return false
		}
		p.wait(time.Duration(rand.Int64N(int64(f.delay) + 1)))
		passed += n
		if f.what == "none" || passed < f.bytes {
			if _, err := to.Write(buffer[:n]); err != nil {
				return false
			}
			continue
		}
		p.note(f.what)
		switch f.what {
		case "half-close":
			return true
		case "silence": // the rest is taken and thrown away
			_ = from.SetReadDeadline(time.Now().Add(silence))
			_, _ = io.Copy(io.Discard, from)
		}
		return false
	}
}

func (p *proxy) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.stop:
	}
}
