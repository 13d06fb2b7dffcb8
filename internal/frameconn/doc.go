// Package frameconn carries the frames of GrainService.Stream over a plain TCP
// connection: the same bytes as gRPC's stream, at a tenth of its price.
//
// # On the wire
//
// The client begins with a preface of 24 bytes, and the node answers with one
// of its own:
//
//	0   8  the magic, "\x89QUERN\r\n"
//	8   1  the version: 1
//	9  11  zero
//	20  4  the length of what follows for a later version; here 0
//
// Nobody takes it for something else: it begins with a byte that neither
// HTTP/2's preface, nor a request of HTTP/1, nor TLS begins with, holds a line
// end where a reader of lines refuses it, and is as long as the preface of
// HTTP/2, so that who waits for that one refuses it at once. What is not
// answered with a preface of the same version is not spoken here ([ErrNotSpoken]):
// the client takes gRPC then. The length leaves room for a token; over TLS the
// protocol is named [ALPN].
//
// After the prefaces both ends send records: a kind of one byte, the length of
// the rest in four, big endian, and the rest.
//
//	1  a frame of the stream
//	2  the end, with a StreamError that says why, or nothing; from a node only.
//	   What was answered stands before it, and nothing follows
//	3  a ping, from a node to a client that is silent
//	4  the answer to it
//
// The end of a client's bytes says that it has left: what it has begun is carried
// out, what waits for others is given up. It cannot end its half alone, since
// that looks the same.
//
// # Bounds
//
// A record's length is looked at before memory is taken for it, and memory is
// taken as its bytes come: at most twice what has come, beyond 16 KiB. A
// connection that is silent holds no buffer (on Unix). Config has the times.
package frameconn
