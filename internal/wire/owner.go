package wire

import (
	"strconv"
	"unicode/utf8"

	"github.com/quern-io/quern/failure"
)

// The keys of a shard's owner in the metadata of ErrorInfo.
const (
	metadataShard = "shard"
	metadataNode  = "node"
	metadataAddr  = "addr"
	metadataEpoch = "epoch"
)

// metadataOf is what ErrorInfo says of a failure besides its reason.
func metadataOf(e *failure.Error) map[string]string {
	m := map[string]string{metadataOutcome: e.Outcome().String()}
	if o := e.Owner; o != nil && utf8.ValidString(o.Node) && utf8.ValidString(o.Addr) {
		m[metadataShard] = strconv.FormatUint(uint64(o.Shard), 10)
		m[metadataNode], m[metadataAddr] = o.Node, o.Addr
		m[metadataEpoch] = strconv.FormatUint(o.Epoch, 10)
	}
	return m
}

// ownerOf reads a shard's owner, nil where there is none.
func ownerOf(m map[string]string) *failure.Owner {
	shard, err := strconv.ParseUint(m[metadataShard], 10, 32)
	if err != nil {
		return nil
	}
	epoch, err := strconv.ParseUint(m[metadataEpoch], 10, 64)
	if err != nil {
		return nil
	}
	return &failure.Owner{Shard: uint32(shard), Node: m[metadataNode], Addr: m[metadataAddr], Epoch: epoch}
}
