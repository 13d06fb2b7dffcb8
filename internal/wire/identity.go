package wire

import "fmt"

// Metadata by which the nodes of a cluster make sure that they speak to whom they
// mean. Clients send none of it.
const (
	// HeaderTo is the node that a request is meant for, as of [Identity]; any
	// other one refuses it.
	HeaderTo = "quern-to-bin"
	// HeaderBy is the node that answers such a request, likewise.
	HeaderBy = "quern-by-bin"
)

// Identity says who a node is: its cluster's id of at most 255 bytes, which is
// empty for a lone node, and its name.
func Identity(cluster []byte, node string) string {
	b := make([]byte, 0, 1+len(cluster)+len(node))
	b = append(append(b, byte(len(cluster))), cluster...) //nolint:gosec // as above
	return string(append(b, node...))
}

// Describe puts an identity, of whomever, into words.
func Describe(identity string) string {
	if identity == "" || len(identity) <= int(identity[0]) {
		return "nobody"
	}
	cluster, node := identity[1:1+identity[0]], identity[1+identity[0]:]
	if cluster == "" {
		return fmt.Sprintf("the lone node %q", node)
	}
	return fmt.Sprintf("the node %q of the cluster %x", node, cluster)
}
