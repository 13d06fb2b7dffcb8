// Package wire holds what server and client must agree on beyond the protobuf
// schema: the names of the headers that say who answered, and how a
// [failure.Error] travels as a status with details.
//
// A failure becomes a status whose code is its reason's, with two details:
//
//   - google.rpc.ErrorInfo: reason, domain "quern", and in the metadata
//     "outcome" ("not_done" or "unknown"), and where the shard's owner is known
//     "shard", "node", "addr" and "epoch";
//   - google.rpc.RetryInfo, where the failure is retryable, with the time to
//     wait; zero means that the caller may choose.
package wire

import (
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/failure"
)

// Domain is the domain of every ErrorInfo that Quern writes.
const Domain = "quern"

// Names of metadata and HTTP headers, in the lower case that gRPC wants.
const (
	// HeaderNode is the name of the shard's owner.
	HeaderNode = "quern-node"
	// HeaderShard is the key's shard, in decimal.
	HeaderShard = "quern-shard"
	// HeaderEpoch is the ownership that answered, in decimal.
	HeaderEpoch = "quern-epoch"
	// HeaderHops is how many nodes have passed a watch on, in decimal; of a
	// request.
	HeaderHops = "quern-hops"
	// HeaderReason is a failure's reason, over HTTP only.
	HeaderReason = "quern-reason"
)

// metadataOutcome is the key of the outcome in the metadata of ErrorInfo.
const metadataOutcome = "outcome"

// Code returns the failure's canonical status code.
func Code(e *failure.Error) codes.Code { return codes.Code(e.Reason.Code()) }

// Details returns what a failure carries besides code and message.
func Details(e *failure.Error) []proto.Message {
	details := []proto.Message{&errdetails.ErrorInfo{
		Reason:   e.Reason.String(),
		Domain:   Domain,
		Metadata: metadataOf(e),
	}}
	if e.Retryable() {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	return details
}

// Status returns the failure as a status. Its cause stays behind.
func Status(e *failure.Error) *status.Status { return StatusWithCode(e, Code(e)) }

// StatusWithCode is Status under a code of the caller's choice.
func StatusWithCode(e *failure.Error, code codes.Code) *status.Status {
	p := &spb.Status{Code: int32(code), Message: e.Message} //nolint:gosec // codes are small
	for _, d := range Details(e) {
		packed, err := anypb.New(d)
		if err != nil {
			continue // fails for invalid UTF-8 alone, and no detail holds foreign text
		}
		p.Details = append(p.Details, packed)
	}
	return status.FromProto(p)
}

// FromStatus returns the failure that a status carries, and false where it
// carries none: it was then not written by Quern.
//
// A reason that this build does not know, of a newer peer, is replaced by the
// one that promises the same: see Fallback.
func FromStatus(st *status.Status) (*failure.Error, bool) {
	info, retry := parseDetails(st.Proto().GetDetails())
	if info == nil {
		return nil, false
	}
	reason, known := failure.ParseReason(info.GetReason())
	if !known {
		unknown := info.GetMetadata()[metadataOutcome] != failure.NotDone.String()
		reason = Fallback(uint32(st.Code()), unknown)
		return failure.New(reason, "%s: %s", info.GetReason(), st.Message()).After(retry), true
	}
	return &failure.Error{Reason: reason, Message: st.Message(), RetryAfter: retry, Owner: ownerOf(info.GetMetadata())}, true
}

func parseDetails(details []*anypb.Any) (*errdetails.ErrorInfo, time.Duration) {
	var (
		info  *errdetails.ErrorInfo
		retry time.Duration
	)
	for _, d := range details {
		m, err := d.UnmarshalNew()
		if err != nil {
			continue // a detail of somebody else
		}
		switch m := m.(type) {
		case *errdetails.ErrorInfo:
			if m.GetDomain() == Domain {
				info = m
			}
		case *errdetails.RetryInfo:
			retry = m.GetRetryDelay().AsDuration()
		}
	}
	return info, retry
}

// Fallback picks a known reason with the same code and outcome.
func Fallback(code uint32, outcomeUnknown bool) failure.Reason {
	if outcomeUnknown {
		return failure.OutcomeUnknown
	}
	switch codes.Code(code) {
	case codes.InvalidArgument:
		return failure.InvalidField
	case codes.OutOfRange:
		return failure.Limit
	case codes.FailedPrecondition:
		return failure.ConditionFailed
	case codes.Unimplemented:
		return failure.UnknownMethod
	case codes.ResourceExhausted:
		return failure.Overloaded
	case codes.Unavailable:
		return failure.NotOwner
	case codes.Aborted:
		return failure.HandlerFailed
	default:
		return failure.OutcomeUnknown
	}
}
