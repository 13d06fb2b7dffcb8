//go:build !unix

package frameconn

// read holds a buffer while it waits.
func (r *reader) read() error {
	r.hold()
	r.n, r.err = r.conn.Read((*r.buf)[r.end:])
	return r.err //nolint:wrapcheck // explained by the callers
}
