// Package clusterfault holds no code. Its tests run whole clusters as processes,
// with a real Consul and a real PostgreSQL and clients on every node, do to them
// what the world does, and judge what the clients saw: see package clusterproc.
//
// Each event prints one line: what was lost or doubled, and how long a key had
// no answer. Faults last for seconds; built with the tag long, as by
// `make test-long`, for as long as docs/guarantees.md promises.
//
// Where that is allowed, as for root, the tests run in network namespaces; else
// the links lead through proxies. What a run used is printed.
package clusterfault
