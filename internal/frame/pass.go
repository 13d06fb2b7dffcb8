package frame

import "google.golang.org/protobuf/encoding/protowire"

// What a node appends that passes on what others have sent.

// sessionRef is the field of a session's number in StreamSession.
const sessionRef = 5

// AppendRawOperation appends an operation whose request is encoded already.
func AppendRawOperation(b []byte, o *Operation) []byte {
	b, start := begin(b, requestOperations)
	b = appendUint(b, operationID, o.ID)
	b = appendUint(b, operationMethod, uint64(o.Method))
	b = appendBytes(b, operationRequest, o.Request)
	return end(o.appendPlace(b), start)
}

// AppendRefSession gives a number to a session.
func AppendRefSession(b []byte, shard, ref uint32, id string) []byte {
	b, start := begin(b, requestSessions)
	b = appendUint(b, 1, uint64(shard))
	b = appendBytes(b, 2, id)
	b = appendUint(b, sessionRef, uint64(ref))
	return end(b, start)
}

// AppendNode says that this end is a node.
func AppendNode(b []byte, name string) []byte { return appendBytes(b, requestNode, name) }

// AppendLeave gives up an operation that waits, whose client may come back.
func AppendLeave(b []byte, id uint64) []byte {
	return protowire.AppendVarint(appendTag(b, requestLeaves, protowire.VarintType), id)
}

// AppendRawReply answers an operation with a message that is encoded already.
func AppendRawReply(b []byte, id uint64, reply []byte) []byte {
	b, start := begin(b, responseReplies)
	b = appendUint(b, replyID, id)
	return end(appendBytes(b, replyReply, reply), start)
}
