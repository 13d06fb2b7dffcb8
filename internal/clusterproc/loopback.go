package clusterproc

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// loopback is a Network of proxies on the loopback interface.
type loopback struct {
	mu     sync.Mutex
	sides  []*proxied // by number less 1
	relays []*relay   // guarded by mu
}

// proxied is a side behind proxies.
type proxied struct {
	gates map[Link]*gate

	own       string // where its node listens
	advertise string

	mu   sync.Mutex
	pids []int // guarded by mu; what was started there
}

// opened says whether a process of this side has opened a connection.
func (s *proxied) opened(conn net.Conn) bool {
	s.mu.Lock()
	pids := slices.Clone(s.pids)
	s.mu.Unlock()
	return ownsSocket(pids, conn)
}

// Loopback returns a network of proxies. A connection between two nodes passes
// the gates of both: who has opened it is found by its process.
func Loopback(sides int) (Network, error) {
	n := &loopback{}
	for range sides {
		n.sides = append(n.sides, &proxied{gates: map[Link]*gate{Peers: newGate(), Authority: newGate(), Store: newGate()}})
	}
	for i, s := range n.sides {
		lis, err := listen("127.0.0.1:0")
		if err == nil {
			s.own, err = freeAddr()
		}
		if err != nil {
			n.Close()
			return nil, err
		}
		s.advertise = lis.Addr().String()
		n.relays = append(n.relays, startRelay(lis, DialTo("tcp", s.own), func(conn net.Conn) []*gate { return n.between(conn, i+1) }))
	}
	return n, nil
}

// freeAddr returns an address of the loopback interface that nobody listens on.
// Its port is below those that the system gives to outgoing connections, so
// that a node which is away finds it free again.
func freeAddr() (string, error) {
	low := 32768
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		if first, err := strconv.Atoi(strings.Fields(string(b))[0]); err == nil {
			low = first
		}
	}
	const least, tries = 10_000, 100
	for range tries {
		if low <= least {
			break
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(least+rand.IntN(low-least))) //nolint:gosec // any will do
		if lis, err := listen(addr); err == nil {
			return addr, lis.Close() //nolint:wrapcheck // it cannot fail
		}
	}
	return "", errors.New("clusterproc: found no free port")
}

func (*loopback) Kind() string { return "proxies" }

func (n *loopback) Listen(side int) string { return n.sides[side-1].own }

func (n *loopback) Advertise(side int) string { return n.sides[side-1].advertise }

// between returns the gates that lie between whoever has opened a connection and
// a side.
func (n *loopback) between(conn net.Conn, to int) []*gate {
	gates := []*gate{n.sides[to-1].gates[Peers]}
	for i, s := range n.sides {
		if i+1 == to || !s.opened(conn) {
			continue
		}
		gates = append(gates, s.gates[Peers])
	}
	return gates
}

func (n *loopback) Offer(side int, over Link, dial Dialer) (string, error) {
	lis, err := listen("127.0.0.1:0")
	if err != nil {
		return "", err
	}
	gates := []*gate{n.sides[side-1].gates[over]}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.relays = append(n.relays, startRelay(lis, dial, func(net.Conn) []*gate { return gates }))
	return lis.Addr().String(), nil
}

// Run only calls f: what runs on a side is told to started.
func (*loopback) Run(_ int, f func()) { f() }

func (n *loopback) started(side, pid int) {
	if side == 0 {
		return
	}
	s := n.sides[side-1]
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pids = append(s.pids, pid)
}

func (n *loopback) Cut(side int, links Link) error {
	for l, g := range n.sides[side-1].gates {
		if links&l != 0 && !g.shut() {
			return fmt.Errorf("clusterproc: side %d is cut from %v already", side, l)
		}
	}
	return nil
}

func (n *loopback) Heal(side int, links Link) error {
	for l, g := range n.sides[side-1].gates {
		if links&l != 0 {
			g.unlock()
		}
	}
	return nil
}

func (n *loopback) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.relays {
		r.close()
	}
	n.relays = nil
}
