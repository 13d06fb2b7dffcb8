package clusterproc

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/quern-io/quern/internal/nodeproc"
)

// enteredEnv marks a process that has a network namespace of its own.
const enteredEnv = "QUERN_CLUSTERPROC_ENTERED"

// Entered says whether this process was started by [Enter].
func Entered() bool { return os.Getenv(enteredEnv) != "" }

// Enter runs this program again, with the same arguments, in a network
// namespace of its own, and returns its exit code when it has ended. It fails
// where that is not allowed, or could not be used.
func Enter(env ...string) (code int, err error) {
	if os.Getuid() != 0 {
		return 0, fmt.Errorf("clusterproc: namespaces: %w", os.ErrPermission)
	}
	program, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("clusterproc: %w", err)
	}
	if out, err := entering(program, probeArg).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("clusterproc: namespaces: %w: %s", err, out)
	}
	cmd := entering(program, os.Args[1:]...)
	cmd.Env = append(cmd.Env, env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// The child ends with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// It inherits the thread's priority: its times are to be its own, whatever
	// else the machine does. Where that is not allowed it goes without.
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), priority)
	if err := cmd.Run(); cmd.ProcessState == nil {
		return 0, fmt.Errorf("clusterproc: %w", err)
	}
	return nodeproc.ExitCode(cmd.ProcessState), nil
}

// priority is a little above the usual one.
const priority = -5

// probeArg makes an entered program end once it was found that it can have
// interfaces of its own.
const probeArg = "clusterproc-probe"

func entering(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...) //nolint:gosec,noctx // this program; it ends by itself
	cmd.Env = append(os.Environ(), enteredEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// Begin is to be called first by a program that [Enter] has started. It brings
// the namespace's loopback up. A program that was started only to find out
// whether all this is possible ends here.
func Begin() error {
	n, err := openNetlink()
	if err != nil {
		return err
	}
	defer n.close()
	if err := n.set("lo", true); err != nil {
		return err
	}
	if len(os.Args) < 2 || os.Args[1] != probeArg {
		return nil
	}
	probe, err := Namespaces(1)
	if err != nil {
		return err
	}
	probe.Close()
	os.Exit(0)
	return nil
}

// networks counts the networks of this process, so that each has names and
// addresses of its own.
var networks atomic.Int32

// namespaces is a Network. Its bridge, its relays and one end of each link are
// in the process's own namespace.
type namespaces struct {
	number int
	sides  []*side // by number less 1

	mu     sync.Mutex
	relays []*relay       // guarded by mu
	ports  map[[2]int]int // guarded by mu; of relays, by side and link
}

// Namespaces returns a network with a namespace for each side, for a process
// that [Enter] has started.
func Namespaces(sides int) (Network, error) {
	n := &namespaces{number: int(networks.Add(1)), ports: make(map[[2]int]int)}
	here, err := openNetlink()
	if err != nil {
		return nil, err
	}
	defer here.close()
	if err := n.base(here); err != nil {
		return nil, err
	}
	for i := range sides {
		s, err := newSide()
		if err == nil {
			n.sides = append(n.sides, s)
			err = n.connect(here, i+1, s)
		}
		if err != nil {
			n.Close()
			return nil, err
		}
	}
	for i := range sides {
		if err := n.introduce(i + 1); err != nil {
			n.Close()
			return nil, err
		}
	}
	return n, nil
}

func (n *namespaces) bridgeName() string { return fmt.Sprintf("q%d", n.number) }

// ifName names the end of a link that is not on the side.
func (n *namespaces) ifName(side int, l Link) string {
	return fmt.Sprintf("q%d-%d-%d", n.number, side, l)
}

// subnets: each link has one of its own, the peers share theirs.
func (n *namespaces) addr(side int, l Link, far bool) netip.Addr {
	third, last := 0, side
	if l != Peers {
		third, last = int(l)*32+side, 2
	}
	if far {
		last = 254
	}
	return netip.AddrFrom4([4]byte{10, byte(n.number), byte(third), byte(last)})
}

// macOf is that of the near end of a link, or of its far end; side 0 is the
// bridge, which has what the kernel chose.
func (n *namespaces) macOf(side int, l Link, far bool) mac {
	m := mac{2, 'q', byte(n.number), byte(side), byte(l), 0}
	if far {
		m[5] = 1
	}
	return m
}

// base makes the bridge of the peers.
func (n *namespaces) base(here *netlink) error {
	if err := here.bridge(n.bridgeName()); err != nil {
		return err
	}
	if err := here.address(n.bridgeName(), netip.PrefixFrom(n.addr(0, Peers, true), 24)); err != nil {
		return err
	}
	return here.set(n.bridgeName(), true)
}

var links = [...]Link{Peers, Authority, Store}

// connect makes the three links of a side.
func (n *namespaces) connect(here *netlink, number int, s *side) error {
	for _, l := range links {
		name := n.ifName(number, l)
		far, near := end{name, n.macOf(number, l, true)}, end{l.String(), n.macOf(number, l, false)}
		if err := here.pair(far, near, s.namespace); err != nil {
			return err
		}
		if l == Peers {
			if err := here.attach(name, n.bridgeName()); err != nil {
				return err
			}
		} else {
			if err := here.address(name, netip.PrefixFrom(n.addr(number, l, true), 24)); err != nil {
				return err
			}
			if err := here.neighbour(name, n.addr(number, l, false), n.macOf(number, l, false)); err != nil {
				return err
			}
		}
		if err := here.set(name, true); err != nil {
			return err
		}
	}
	return nil
}

// introduce sets up what is on a side, and tells it who has which address.
func (n *namespaces) introduce(number int) error {
	bridge, err := net.InterfaceByName(n.bridgeName())
	if err != nil {
		return fmt.Errorf("clusterproc: %w", err)
	}
	s := n.sides[number-1]
	var failed error
	s.do(func() {
		failed = s.inside.set("lo", true)
		for _, l := range links {
			if failed == nil {
				failed = s.inside.address(l.String(), netip.PrefixFrom(n.addr(number, l, false), 24))
			}
			if failed == nil {
				failed = s.inside.set(l.String(), true)
			}
			if failed == nil && l != Peers {
				failed = s.inside.neighbour(l.String(), n.addr(number, l, true), n.macOf(number, l, true))
			}
		}
		for other := range n.sides {
			if failed == nil && other+1 != number {
				failed = s.inside.neighbour(Peers.String(), n.addr(other+1, Peers, false), n.macOf(other+1, Peers, false))
			}
		}
		if failed == nil {
			failed = s.inside.neighbour(Peers.String(), n.addr(0, Peers, true), mac(bridge.HardwareAddr))
		}
	})
	return failed
}

// Ports of nodes; each has an address of its own.
const grpcPort = 7411

func (*namespaces) Kind() string { return "network namespaces" }

func (n *namespaces) Listen(side int) string {
	return netip.AddrPortFrom(n.addr(side, Peers, false), grpcPort).String()
}

func (n *namespaces) Advertise(side int) string { return n.Listen(side) }

func (n *namespaces) Offer(side int, over Link, dial Dialer) (string, error) {
	lis, err := listen(netip.AddrPortFrom(n.addr(side, over, true), 0).String())
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.relays = append(n.relays, startRelay(lis, dial, func(net.Conn) []*gate { return nil }))
	return lis.Addr().String(), nil
}

func (n *namespaces) Run(side int, f func()) {
	if side == 0 {
		f()
		return
	}
	n.sides[side-1].do(f)
}

func (n *namespaces) Cut(side int, links Link) error  { return n.switchLinks(side, links, false) }
func (n *namespaces) Heal(side int, links Link) error { return n.switchLinks(side, links, true) }

// switchLinks switches the ends that are not on the side: those on it lose
// their carrier and nothing else.
func (n *namespaces) switchLinks(side int, which Link, up bool) error {
	here, err := openNetlink()
	if err != nil {
		return err
	}
	defer here.close()
	for _, l := range links {
		if which&l == 0 {
			continue
		}
		if err := here.set(n.ifName(side, l), up); err != nil {
			return err
		}
		if up && l != Peers { // it was forgotten with the carrier
			if err := here.neighbour(n.ifName(side, l), n.addr(side, l, false), n.macOf(side, l, false)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *namespaces) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, r := range n.relays {
		r.close()
	}
	n.relays = nil
	for _, s := range n.sides {
		s.close()
	}
	n.sides = nil
}

// side is a namespace and the thread that lives in it.
type side struct {
	calls     chan func()
	namespace int      // a file of the namespace
	inside    *netlink // of the namespace
}

// newSide makes a namespace with nothing in it. It lives as long as its thread
// and what was started there.
func newSide() (*side, error) {
	s := &side{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		// Never unlocked: the thread ends with this goroutine.
		runtime.LockOSThread()
		err := s.open()
		ready <- err
		if err != nil {
			return
		}
		for f := range s.calls {
			f()
		}
	}()
	return s, <-ready
}

func (s *side) open() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("clusterproc: unshare: %w", err)
	}
	var err error
	if s.namespace, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("clusterproc: %w", err)
	}
	s.inside, err = openNetlink()
	return err
}

func (s *side) do(f func()) {
	done := make(chan struct{})
	s.calls <- func() {
		defer close(done)
		f()
	}
	<-done
}

// close lets the thread end. What was started there should have ended before.
func (s *side) close() {
	close(s.calls)
	s.inside.close()
	_ = unix.Close(s.namespace)
}
