package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/quern-io/quern/cluster"
)

// Values are JSON, so that an operator can read them with "consul kv get".
// Epochs are strings there: other programs would round them above 2^53. A field
// that is not known is ignored, since a newer node may have written it.

// keys is the prefix of a cluster's keys, with its slash.
type keys string

func (k keys) record() string    { return string(k) + "record" }
func (k keys) placement() string { return string(k) + "placement" }
func (k keys) leader() string    { return string(k) + "leader" }

// shard pads the number, so that keys are listed in the order of shards.
func (k keys) shard(shard uint32) string { return fmt.Sprintf("%sshards/%05d", string(k), shard) }

// parseShard finds the shard of a key that shard made.
func (k keys) parseShard(key string) (uint32, bool) {
	digits, ok := strings.CutPrefix(key, string(k)+"shards/")
	if !ok || len(digits) != 5 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	return uint32(n), err == nil
}

type lockJSON struct {
	Epoch *uint64 `json:"epoch,string"`
	// Owner is the incarnation that wrote this.
	Owner string     `json:"owner,omitempty"`
	Clean *cleanJSON `json:"clean,omitempty"`
}

type cleanJSON struct {
	Receiver string `json:"receiver"`
	Handoff  string `json:"handoff"`
}

func encodeLock(v cluster.LockValue) ([]byte, error) {
	out := lockJSON{Epoch: &v.Epoch, Owner: formatID(v.Owner)}
	if v.Clean != (cluster.CleanRelease{}) {
		out.Clean = &cleanJSON{Receiver: formatID(v.Clean.Receiver), Handoff: formatID(v.Clean.Handoff)}
	}
	return json.Marshal(out) //nolint:wrapcheck // strings and numbers do not fail
}

func decodeLock(value []byte) (cluster.LockValue, error) {
	var in lockJSON
	if err := json.Unmarshal(value, &in); err != nil {
		return cluster.LockValue{}, fmt.Errorf("cluster/consul: value of a lock: %w", err)
	}
	if in.Epoch == nil {
		return cluster.LockValue{}, errors.New("cluster/consul: value of a lock: no epoch")
	}
	v := cluster.LockValue{Epoch: *in.Epoch}
	var err error
	if v.Owner, err = parseID[cluster.Incarnation](in.Owner); err != nil || in.Clean == nil {
		return v, err
	}
	if v.Clean.Receiver, err = parseID[cluster.Incarnation](in.Clean.Receiver); err != nil {
		return v, err
	}
	v.Clean.Handoff, err = parseID[cluster.HandoffID](in.Clean.Handoff)
	return v, err
}

// formatID writes an id as a UUID, the zero one as nothing.
func formatID[T ~[16]byte](id T) string {
	if id == (T{}) {
		return ""
	}
	return uuid.UUID(id).String()
}

func parseID[T ~[16]byte](text string) (T, error) {
	if text == "" {
		return T{}, nil
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return T{}, fmt.Errorf("cluster/consul: id %q: %w", text, err)
	}
	return T(id), nil
}

type recordJSON struct {
	Format      uint32 `json:"format"`
	Protocol    uint32 `json:"protocol"`
	ClusterID   string `json:"cluster_id"`
	Store       string `json:"store,omitempty"`
	Shards      uint32 `json:"shards"`
	LockDelayMS int64  `json:"lock_delay_ms"`
	Base        uint64 `json:"base_epoch,string"`
}

func encodeRecord(r cluster.Record) ([]byte, error) {
	return json.Marshal(recordJSON{ //nolint:wrapcheck // strings and numbers do not fail
		Format: r.Format, Protocol: r.Protocol, ClusterID: formatID(r.ClusterID), Store: r.Store,
		Shards: r.Shards, LockDelayMS: r.LockDelay.Milliseconds(), Base: r.Base,
	})
}

// maxDelayMS keeps the product below what a duration holds.
const maxDelayMS = int64(cluster.MaxLockDelay / time.Millisecond)

// recordFormat is the highest format whose fields this version knows.
const recordFormat = 1

// decodeRecord fails with cluster.ErrRecord. A record of a newer format is
// returned with whatever is understood of it: Record.Fit then says which format
// it has.
func decodeRecord(value []byte) (cluster.Record, error) {
	var in recordJSON
	if err := json.Unmarshal(value, &in); err != nil {
		return cluster.Record{}, fmt.Errorf("cluster/consul: %w: it does not read: %w", cluster.ErrRecord, err)
	}
	id, err := parseID[[16]byte](in.ClusterID)
	if err != nil {
		return cluster.Record{}, fmt.Errorf("cluster/consul: %w: %w", cluster.ErrRecord, err)
	}
	r := cluster.Record{
		ClusterID: id, Store: in.Store, Shards: in.Shards, Base: in.Base, Format: in.Format, Protocol: in.Protocol,
		LockDelay: time.Duration(min(max(in.LockDelayMS, 0), maxDelayMS+1)) * time.Millisecond,
	}
	if r.Format > recordFormat {
		return r, nil
	}
	whole, err := r.Complete()
	if err != nil {
		return cluster.Record{}, fmt.Errorf("cluster/consul: %w", err)
	}
	if whole != r {
		return cluster.Record{}, fmt.Errorf("cluster/consul: %w: it lacks a field", cluster.ErrRecord)
	}
	return r, nil
}
