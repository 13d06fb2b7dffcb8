// Package clusterproc runs whole clusters as processes, for tests and
// benchmarks: nodes, the services that they need, and a network between them
// that can be cut. It also holds the witnesses that judge what clients saw.
//
// # The network
//
// Every node has a side of its own. What runs on a side, the node and its
// clients, reach each other whatever is cut. Three links lead from a side to
// the rest: to the other nodes, to the authority and to the store. Each can be
// cut by itself, without a sign to either end, and healed.
//
// [Namespaces] makes each side a network namespace, with a pair of virtual
// interfaces for each link; it needs the rights of root in a network namespace
// of its own, which [Enter] gives a program. The namespaces are named nowhere:
// they go with the process, however that ends. [Loopback] needs no rights and
// carries the links through proxies of the calling process.
//
// Authority and store are on nobody's side: a cut keeps nodes from an agent that
// keeps its own connection to Consul.
//
// # The witnesses
//
// Clients note every operation as an [Op], with times of one clock for all
// processes of the machine. [Judge] takes them together and tells what was lost
// or doubled, whether an epoch was answered by two nodes or went down, and how
// long a key had no answer, see [Verdict].
package clusterproc
