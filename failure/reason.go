package failure

import "net/http"

// Reason is a machine-readable cause of a failure. It is an error itself, so
// that errors.Is(err, failure.NotOwner) works.
type Reason uint8

// The reasons. Their names on the wire are in the table below.
const (
	// Internal is a defect of Quern; the outcome is unknown.
	Internal Reason = iota
	// InvalidKey is a key that is empty, too long or not UTF-8.
	InvalidKey
	// InvalidField is any other argument out of its documented range.
	InvalidField
	// Limit is an operation that would pass a bound which its caller set, or
	// the size limit of a value.
	Limit
	// Overflow is a result that does not fit into 64 bits.
	Overflow
	// ConditionFailed is a condition of the caller that did not hold.
	ConditionFailed
	// NotHolder is a fencing token, or an owner, that does not hold the lock.
	NotHolder
	// FencedToken is a fencing token below one that the key was written
	// under before.
	FencedToken
	// CrossShard is a transaction whose keys are of several shards.
	CrossShard
	// IDReused is an idempotency key that came with another request before.
	IDReused
	// SessionExpired is an operation under a session that the shard does not
	// know, or under a number that is settled. It says nothing of what came
	// under the same number before.
	SessionExpired
	// UnknownKind is a kind that the owner does not serve.
	UnknownKind
	// UnknownMethod is a method that the kind does not have.
	UnknownMethod
	// Overloaded is a full queue, table or disk.
	Overloaded
	// NotOwner is a node that does not own the key's shard.
	NotOwner
	// Moving is a shard on its way to another node.
	Moving
	// Unreachable is a client that reaches no node; nothing was sent.
	Unreachable
	// Stopping is a node that ends.
	Stopping
	// StoreUnavailable is a store that cannot be read at present.
	StoreUnavailable
	// HandlerFailed is a handler that panicked; its change is undone.
	HandlerFailed
	// OutcomeUnknown is an operation that perhaps happened.
	OutcomeUnknown
	// DeadlineExceeded is a caller's deadline that passed; perhaps done.
	DeadlineExceeded
	// Canceled is a caller that gave up; perhaps done.
	Canceled
	reasonCount
)

// Canonical status codes, numbered as gRPC and Connect number them.
const (
	codeCanceled           = 1
	codeUnknown            = 2
	codeInvalidArgument    = 3
	codeDeadlineExceeded   = 4
	codeResourceExhausted  = 8
	codeFailedPrecondition = 9
	codeAborted            = 10
	codeOutOfRange         = 11
	codeUnimplemented      = 12
	codeInternal           = 13
	codeUnavailable        = 14
)

// statusClientClosed is the status that proxies use for a client that left.
const statusClientClosed = 499

type row struct {
	name      string
	code      uint32
	http      int
	outcome   Outcome
	retryable bool
}

var table = [reasonCount]row{
	Internal:         {"INTERNAL", codeInternal, http.StatusInternalServerError, Unknown, false},
	InvalidKey:       {"INVALID_KEY", codeInvalidArgument, http.StatusBadRequest, NotDone, false},
	InvalidField:     {"INVALID_FIELD", codeInvalidArgument, http.StatusBadRequest, NotDone, false},
	Limit:            {"LIMIT", codeOutOfRange, http.StatusBadRequest, NotDone, false},
	Overflow:         {"OVERFLOW", codeOutOfRange, http.StatusBadRequest, NotDone, false},
	ConditionFailed:  {"CONDITION_FAILED", codeFailedPrecondition, http.StatusBadRequest, NotDone, false},
	NotHolder:        {"NOT_HOLDER", codeFailedPrecondition, http.StatusBadRequest, NotDone, false},
	FencedToken:      {"FENCED_TOKEN", codeFailedPrecondition, http.StatusBadRequest, NotDone, false},
	CrossShard:       {"CROSS_SHARD", codeFailedPrecondition, http.StatusBadRequest, NotDone, false},
	IDReused:         {"ID_REUSED", codeFailedPrecondition, http.StatusBadRequest, NotDone, false},
	SessionExpired:   {"SESSION_EXPIRED", codeFailedPrecondition, http.StatusBadRequest, NotDone, false},
	UnknownKind:      {"UNKNOWN_KIND", codeUnimplemented, http.StatusNotImplemented, NotDone, false},
	UnknownMethod:    {"UNKNOWN_METHOD", codeUnimplemented, http.StatusNotImplemented, NotDone, false},
	Overloaded:       {"OVERLOADED", codeResourceExhausted, http.StatusTooManyRequests, NotDone, true},
	NotOwner:         {"NOT_OWNER", codeUnavailable, http.StatusServiceUnavailable, NotDone, true},
	Moving:           {"MOVING", codeUnavailable, http.StatusServiceUnavailable, NotDone, true},
	Unreachable:      {"UNREACHABLE", codeUnavailable, http.StatusServiceUnavailable, NotDone, true},
	Stopping:         {"STOPPING", codeUnavailable, http.StatusServiceUnavailable, NotDone, true},
	StoreUnavailable: {"STORE_UNAVAILABLE", codeUnavailable, http.StatusServiceUnavailable, NotDone, true},
	HandlerFailed:    {"HANDLER_FAILED", codeAborted, http.StatusConflict, NotDone, false},
	OutcomeUnknown:   {"OUTCOME_UNKNOWN", codeUnknown, http.StatusInternalServerError, Unknown, false},
	DeadlineExceeded: {"DEADLINE_EXCEEDED", codeDeadlineExceeded, http.StatusGatewayTimeout, Unknown, false},
	Canceled:         {"CANCELED", codeCanceled, statusClientClosed, Unknown, false},
}

// String returns the name on the wire, such as NOT_OWNER.
func (r Reason) String() string { return r.row().name }

// Error makes a reason usable as the target of errors.Is.
func (r Reason) Error() string { return "quern: " + r.String() }

// Code returns the canonical status code, numbered as gRPC numbers it.
func (r Reason) Code() uint32 { return r.row().code }

// HTTP returns the HTTP status.
func (r Reason) HTTP() int { return r.row().http }

// Outcome says whether an operation that failed for this reason may have
// happened.
func (r Reason) Outcome() Outcome { return r.row().outcome }

// Retryable says whether the same call can succeed later.
func (r Reason) Retryable() bool { return r.row().retryable }

func (r Reason) row() row {
	if r >= reasonCount {
		r = Internal
	}
	return table[r]
}

// ParseReason finds a reason by its name on the wire.
func ParseReason(name string) (Reason, bool) {
	for r := range reasonCount {
		if table[r].name == name {
			return r, true
		}
	}
	return Internal, false
}
