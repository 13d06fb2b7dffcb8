// Package pgproc runs a private PostgreSQL server, for tests and benchmarks that
// need a real one: to kill, to restart, to fill. Its files lie in a folder of
// their own under the temporary folder, it listens on a socket there and on no
// port, and it runs as a user other than root.
package pgproc
