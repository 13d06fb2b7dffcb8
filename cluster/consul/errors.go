package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/quern-io/quern/cluster"
)

// Consul's words, as 1.8.7 and 1.22.3 both write them. A text that contains one
// of them means what the name says.
const (
	saysDenied        = "Permission denied"
	saysNoSuchToken   = "ACL not found" //nolint:gosec // no credential
	saysTooLarge      = "too large"
	saysNoSession     = "invalid session"
	saysMissing       = "missing session"
	saysCheckMissing  = "Missing check"
	saysCheckCritical = "is in critical state"
	saysNoTTL         = "does not have associated TTL"
	saysUnknownCheck  = "Unknown check"

	saysHeld         = "lock is already held"
	saysDelayed      = "due to lock delay"
	saysIndex        = "failed index check"
	saysIndexMissing = "failed to check index"
	saysStale        = "index is stale"
	saysNotHeld      = "lock isn't held"
	saysSession      = "failed session check"
	saysSessMissing  = "failed to check session"
)

// errFiltered is an answer that lacks what the token may not see.
var errFiltered = errors.New("the answer leaves out what the token may not read")

// The rights that calls need, as an operator would write them.
const (
	needsKeys     = "key_prefix read and write on quern/"
	needsService  = "service_prefix write on quern-, node_prefix read"
	needsSessions = "session_prefix write"
)

// classify says which of the package's sentinels err is. what names the call,
// needs the rights that it takes.
func classify(what, needs string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("cluster/consul: %s: %w", what, err)
	case denied(err):
		return fmt.Errorf("cluster/consul: %s: %w (it needs %s): %w", what, cluster.ErrDenied, needs, err)
	case contains(err, saysTooLarge):
		return fmt.Errorf("cluster/consul: %s: %w: %w", what, cluster.ErrDenied, err)
	case contains(err, saysNoSession), contains(err, saysMissing):
		return fmt.Errorf("cluster/consul: %s: %w: %w", what, cluster.ErrSessionLost, err)
	default:
		return fmt.Errorf("cluster/consul: %s: %w: %w", what, cluster.ErrUnreachable, err)
	}
}

// denied recognises a missing right: by status where the library keeps it, by
// words where it does not.
func denied(err error) bool {
	if errors.Is(err, errFiltered) || contains(err, saysDenied) || contains(err, saysNoSuchToken) {
		return true
	}
	if status, ok := errors.AsType[api.StatusError](err); ok {
		return status.Code == http.StatusForbidden || status.Code == http.StatusUnauthorized
	}
	// Session.Renew leaves nothing but the number in a text.
	return contains(err, "response code: 403")
}

func contains(err error, words string) bool { return strings.Contains(err.Error(), words) }

// refused says whether err promises that nothing was done.
func refused(err error) bool {
	return errors.Is(err, cluster.ErrDenied) || errors.Is(err, cluster.ErrSessionLost)
}

// judge reads why Consul's transaction refused one operation. ok is false where
// the words are of the request as a whole, or not known.
func judge(words string) (v cluster.Verdict, ok bool) {
	for _, known := range [...]struct {
		words   string
		verdict cluster.Verdict
	}{
		{saysHeld, cluster.Held},
		{saysDelayed, cluster.Delayed},
		{saysNotHeld, cluster.Gone},
		{saysSession, cluster.Gone},
		{saysSessMissing, cluster.Gone},
		{saysIndex, cluster.Moved},
		{saysIndexMissing, cluster.Moved},
		{saysStale, cluster.Moved},
	} {
		if strings.Contains(words, known.words) {
			return known.verdict, true
		}
	}
	return cluster.Unknown, false
}
