package frame

import (
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// AppendEnd appends why a stream ends, nothing for no reason: what a transport
// without a status of its own tells its client.
func AppendEnd(b []byte, e *failure.Error) []byte {
	if e == nil {
		return b
	}
	m := streamError(e)
	out, err := proto.MarshalOptions{}.MarshalAppend(b, m)
	if err != nil { // a message that is not UTF-8
		m.Message, m.Owner = notText, nil
		out, _ = proto.MarshalOptions{}.MarshalAppend(b, m)
	}
	return out
}

// ReadEnd reads why a stream has ended; nil is for no reason.
func ReadEnd(b []byte) (*failure.Error, error) {
	if len(b) == 0 {
		return nil, nil //nolint:nilnil // no reason is no error
	}
	var m quernv1.StreamError
	if err := proto.Unmarshal(b, &m); err != nil {
		return nil, malformed("the end", err)
	}
	return failureOf(&m), nil
}
