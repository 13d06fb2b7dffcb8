package clusterproc

import (
	"fmt"
	"strings"
)

// Link is a set of links that lead from a node's side to the rest.
type Link uint8

// The links.
const (
	Peers Link = 1 << iota
	Authority
	Store
	Everything = Peers | Authority | Store
)

// String lists the links.
func (l Link) String() string {
	var names []string
	for i, name := range []string{"peers", "authority", "store"} {
		if l&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, "+")
}

// Network is what lies between nodes and what they need. Nodes have the numbers
// 1 to Sides; side 0 is the calling process's. Its methods may be called
// concurrently.
type Network interface {
	// Kind says for people how links are cut.
	Kind() string
	// Listen is where the node of a side is to listen, and where clients of
	// its side reach it, whatever is cut.
	Listen(side int) string
	// Advertise is where the others reach that node.
	Advertise(side int) string
	// Offer carries connections from a side to what dial reaches, over its
	// link to the authority or to the store, and returns the address to use
	// on that side.
	Offer(side int, over Link, dial Dialer) (addr string, err error)
	// Run calls f on a thread of a side: processes that it starts and sockets
	// that it opens are that side's.
	Run(side int, f func())
	// Cut stops all that passes over links of a side, Heal lets it go on.
	Cut(side int, links Link) error
	Heal(side int, links Link) error
	// Close ends what the network runs in this process.
	Close()
}

// New returns a network of namespaces where this process is in one that it may
// change, see [Enter], and one of proxies elsewhere.
func New(sides int) (Network, error) {
	if Entered() {
		n, err := Namespaces(sides)
		if err != nil {
			return nil, fmt.Errorf("clusterproc: namespaces: %w", err)
		}
		return n, nil
	}
	return Loopback(sides)
}
