// Package clustertest is what an authority must do, as a suite of tests, and a
// twin of Consul in memory that passes it.
//
// [Run] is the suite. What Quern relies on, of Consul too, is written there and
// nowhere else: a test of it that fails means that the design has lost a leg.
// [History] makes calls that are drawn from a seed, to compare two servers.
//
// [Twin] behaves like one Consul server with its agent: sessions that end with
// a check, lock-delay, guarded transactions of bounded size, blocking queries,
// indexes that fall when it is restored. It starts no goroutine and takes its
// time from package time, so that it runs in bubbles of testing/synctest, with
// whole clusters around it. Faults are switched on it, for all or for one
// [Client]: requests that hang, that fail, that are carried out long after they
// were given up, replies that are lost, an operator's hand in the data.
package clustertest
