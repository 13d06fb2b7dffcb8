package frame

import "context"

// Stream is one end of a stream, whatever carries it. Send and Recv may run
// side by side, each in one goroutine.
type Stream interface {
	// Context ends with the stream.
	Context() context.Context
	// Send sends a frame, and does not keep b.
	Send(b []byte) error
	// Recv returns a frame, which is good until the next call. It returns
	// io.EOF where the other end has sent all that it wants to send.
	Recv() ([]byte, error)
	// Close cuts the stream: Send and Recv fail. It may be called again, and
	// by any goroutine.
	Close()
}
