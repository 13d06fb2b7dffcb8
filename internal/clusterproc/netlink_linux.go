package clusterproc

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// netlink asks the kernel to change one network namespace: the one of the
// thread that opened it.
type netlink struct{ fd int }

func openNetlink() (*netlink, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("clusterproc: netlink: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		_ = unix.Close(fd) // the error above says more
		return nil, fmt.Errorf("clusterproc: netlink: %w", err)
	}
	return &netlink{fd}, nil
}

func (n *netlink) close() { _ = unix.Close(n.fd) }

// mac is an address of an interface; zero lets the kernel choose.
type mac [6]byte

// end is one end of a virtual pair.
type end struct {
	name string
	mac  mac
}

// bridge makes a bridge.
func (n *netlink) bridge(name string) error {
	m := about(0, 0, 0)
	m.text(unix.IFLA_IFNAME, name)
	m.nest(unix.IFLA_LINKINFO, func() { m.text(unix.IFLA_INFO_KIND, "bridge") })
	return n.do("bridge "+name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m)
}

// pair makes a virtual pair with one end here and the other one in the
// namespace that a file stands for.
func (n *netlink) pair(here, there end, namespace int) error {
	const peer = 1 // VETH_INFO_PEER
	m := about(0, 0, 0)
	m.text(unix.IFLA_IFNAME, here.name)
	m.bytes(unix.IFLA_ADDRESS, here.mac[:])
	m.nest(unix.IFLA_LINKINFO, func() {
		m.text(unix.IFLA_INFO_KIND, "veth")
		m.nest(unix.IFLA_INFO_DATA, func() {
			m.nest(peer, func() {
				m.b = append(m.b, about(0, 0, 0).b...)
				m.text(unix.IFLA_IFNAME, there.name)
				m.bytes(unix.IFLA_ADDRESS, there.mac[:])
				m.uint32(unix.IFLA_NET_NS_FD, uint32(namespace))
			})
		})
	})
	return n.do("veth "+here.name, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m)
}

// attach makes an interface a port of a bridge.
func (n *netlink) attach(name, bridge string) error {
	port, err := index(name)
	if err != nil {
		return err
	}
	master, err := index(bridge)
	if err != nil {
		return err
	}
	m := about(port, 0, 0)
	m.uint32(unix.IFLA_MASTER, uint32(master))
	return n.do("attach "+name, unix.RTM_NEWLINK, 0, m)
}

// set switches an interface on or off.
func (n *netlink) set(name string, up bool) error {
	i, err := index(name)
	if err != nil {
		return err
	}
	flags := uint32(0)
	if up {
		flags = unix.IFF_UP
	}
	return n.do("set "+name, unix.RTM_NEWLINK, 0, about(i, flags, unix.IFF_UP))
}

// address gives an interface an address.
func (n *netlink) address(name string, p netip.Prefix) error {
	i, err := index(name)
	if err != nil {
		return err
	}
	m := &message{b: []byte{unix.AF_INET, byte(p.Bits()), 0, unix.RT_SCOPE_UNIVERSE}}
	m.b = binary.NativeEndian.AppendUint32(m.b, uint32(i))
	m.bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
	m.bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
	return n.do("address of "+name, unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, m)
}

// neighbour says for good who has an address, so that a cut link is silent: it
// would be asked for otherwise, and be unreachable when nobody answers.
func (n *netlink) neighbour(name string, a netip.Addr, to mac) error {
	i, err := index(name)
	if err != nil {
		return err
	}
	m := &message{b: []byte{unix.AF_INET, 0, 0, 0}}
	m.b = binary.NativeEndian.AppendUint32(m.b, uint32(i))
	m.b = binary.NativeEndian.AppendUint16(m.b, unix.NUD_PERMANENT)
	m.b = append(m.b, 0, 0)
	m.bytes(unix.NDA_DST, a.AsSlice())
	m.bytes(unix.NDA_LLADDR, to[:])
	return n.do("neighbour of "+name, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE, m)
}

// index is that of an interface of this thread's namespace.
func index(name string) (int, error) {
	i, err := net.InterfaceByName(name)
	if err != nil {
		return 0, fmt.Errorf("clusterproc: interface %s: %w", name, err)
	}
	return i.Index, nil
}

// do sends one request and waits for its acknowledgement.
func (n *netlink) do(what string, kind, flags uint16, m *message) error {
	const header = unix.NLMSG_HDRLEN
	b := binary.NativeEndian.AppendUint32(nil, uint32(header+len(m.b)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	b = append(b, 1, 0, 0, 0, 0, 0, 0, 0) // number, and the sender that the kernel fills in
	b = append(b, m.b...)
	if err := unix.Sendto(n.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("clusterproc: netlink: %s: %w", what, err)
	}
	answer := make([]byte, 8192)
	got, _, err := unix.Recvfrom(n.fd, answer, 0)
	if err != nil {
		return fmt.Errorf("clusterproc: netlink: %s: %w", what, err)
	}
	if got < header+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("clusterproc: netlink: %s: an answer of %d bytes", what, got)
	}
	if code := int32(binary.NativeEndian.Uint32(answer[header:])); code != 0 {
		return fmt.Errorf("clusterproc: netlink: %s: %w", what, unix.Errno(-code))
	}
	return nil
}

// message is a request without its header.
type message struct{ b []byte }

// about begins a message about an interface, zero for one to be. It sets those
// of its flags that mask names.
func about(index int, flags, mask uint32) *message {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], mask)
	return &message{b}
}

func (m *message) bytes(kind uint16, value []byte) {
	m.nest(kind, func() { m.b = append(m.b, value...) })
}

func (m *message) text(kind uint16, value string) { m.bytes(kind, append([]byte(value), 0)) }

func (m *message) uint32(kind uint16, value uint32) {
	m.bytes(kind, binary.NativeEndian.AppendUint32(nil, value))
}

// nest appends an attribute whose content is what fill appends.
func (m *message) nest(kind uint16, fill func()) {
	at := len(m.b)
	m.b = append(m.b, 0, 0, 0, 0)
	fill()
	binary.NativeEndian.PutUint16(m.b[at:], uint16(len(m.b)-at))
	binary.NativeEndian.PutUint16(m.b[at+2:], kind)
	for len(m.b)%4 != 0 {
		m.b = append(m.b, 0)
	}
}
