package consul

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/quern-io/quern/cluster"
)

// establishAttempts bounds how often Establish finds the record gone again
// right after it was written.
const establishAttempts = 3

// Establish implements cluster.Registry.
func (a *Authority) Establish(ctx context.Context, want cluster.Record) (cluster.Record, error) {
	const what = "establish the cluster"
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	for range establishAttempts {
		found, err := a.readRecord(ctx)
		if err != nil {
			return cluster.Record{}, classify(what, needsKeys, err)
		}
		if found != nil {
			return a.fit(found, want)
		}
		fresh, err := want.Complete()
		if err != nil {
			return cluster.Record{}, fmt.Errorf("cluster/consul: %s: %w", what, err)
		}
		value, err := encodeRecord(fresh)
		if err != nil {
			return cluster.Record{}, fmt.Errorf("cluster/consul: %s: %w", what, err)
		}
		// Index zero writes only where there is none; whoever was first is read.
		pair := &api.KVPair{Key: a.keys.record(), Value: value}
		if _, _, err := a.api.KV().CAS(pair, write(ctx)); err != nil {
			return cluster.Record{}, classify(what, needsKeys, err)
		}
	}
	return cluster.Record{}, fmt.Errorf("cluster/consul: %s: %w: the record does not stay", what, cluster.ErrIndexMoved)
}

func (a *Authority) fit(found *api.KVPair, want cluster.Record) (cluster.Record, error) {
	record, err := decodeRecord(found.Value)
	if err != nil {
		return cluster.Record{}, fmt.Errorf("%w (key %s)", err, found.Key)
	}
	record.Index = found.ModifyIndex
	if err := record.Fit(want); err != nil {
		return cluster.Record{}, fmt.Errorf("cluster/consul: cluster %s: %w", a.cluster, err)
	}
	return record, nil
}

// readRecord reads the one key, which says so where the token may not read it;
// a list would be empty.
func (a *Authority) readRecord(ctx context.Context) (*api.KVPair, error) {
	pair, meta, err := a.api.KV().Get(a.keys.record(), query(ctx))
	if err == nil && meta.ResultsFilteredByACLs {
		err = errFiltered
	}
	return pair, err //nolint:wrapcheck // classified by the callers
}

// Table implements cluster.Registry.
func (a *Authority) Table(ctx context.Context, w cluster.Watch) (cluster.Table, error) {
	const what = "read the table"
	var (
		table cluster.Table
		pairs api.KVPairs
	)
	index, fell, err := a.watch(ctx, w, func(q *api.QueryOptions) (meta *api.QueryMeta, err error) {
		pairs, meta, err = a.api.KV().List(string(a.keys), q)
		return meta, err //nolint:wrapcheck // classified below
	})
	if err != nil {
		return cluster.Table{}, classify(what, needsKeys, err)
	}
	table.Index, table.Fell = index, fell
	if err := a.fill(&table, pairs); err != nil {
		return cluster.Table{}, err
	}
	if table.Record != nil {
		return table, nil
	}
	// Either there is none, or the token may not see it: old versions of Consul
	// leave out what is forbidden and do not say so.
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	if _, err := a.readRecord(ctx); err != nil {
		return cluster.Table{}, classify(what, needsKeys, err)
	}
	return table, nil
}

func (a *Authority) fill(table *cluster.Table, pairs api.KVPairs) error {
	for _, pair := range pairs {
		switch pair.Key {
		case a.keys.record():
			record, err := decodeRecord(pair.Value)
			if err != nil {
				return fmt.Errorf("%w (key %s)", err, pair.Key)
			}
			record.Index = pair.ModifyIndex
			table.Record = &record
		case a.keys.placement():
			table.Placement = cluster.Placement{Value: pair.Value, Index: pair.ModifyIndex}
		case a.keys.leader():
			table.Leader = cluster.Session(pair.Session)
		default:
			if shard, ok := a.keys.parseShard(pair.Key); ok {
				table.Locks = append(table.Locks, shardLock(shard, pair))
			}
		}
	}
	// Consul lists in the order of keys, which is that of shards; it does not
	// promise to.
	slices.SortFunc(table.Locks, func(x, y cluster.ShardLock) int { return int(x.Shard) - int(y.Shard) })
	return nil
}

func shardLock(shard uint32, pair *api.KVPair) cluster.ShardLock {
	lock := cluster.ShardLock{Shard: shard, Holder: cluster.Session(pair.Session), Index: pair.ModifyIndex}
	value, err := decodeLock(pair.Value)
	if err != nil {
		lock.Damaged = true
		return lock
	}
	lock.Value = value
	return lock
}

// Lead implements cluster.Registry.
func (a *Authority) Lead(ctx context.Context, s cluster.Session) (bool, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	pair := &api.KVPair{Key: a.keys.leader(), Session: string(s)}
	leads, _, err := a.api.KV().Acquire(pair, write(ctx))
	return leads, classify("take the lead", needsKeys, err)
}

// PutPlacement implements cluster.Registry. Consul takes values of at most 512
// KiB; a larger one is denied.
func (a *Authority) PutPlacement(ctx context.Context, s cluster.Session, index uint64, value []byte) (uint64, error) {
	const what = "write the placement"
	if s == "" {
		return 0, noSession(what)
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	results, refusals, err := a.txn(ctx, nil, api.TxnOps{
		a.op(api.KVTxnOp{Verb: api.KVCheckSession, Key: a.keys.leader(), Session: string(s)}),
		a.op(api.KVTxnOp{Verb: api.KVCAS, Key: a.keys.placement(), Index: index, Value: value}),
	})
	if err != nil {
		return 0, classify(what, needsKeys, err)
	}
	if len(refusals) > 0 {
		return 0, refusal(what, refusals)
	}
	return results[a.keys.placement()].ModifyIndex, nil
}

// refusal makes an error of what a transaction says of its operations.
func refusal(what string, refusals api.TxnErrors) error {
	var words []string
	for _, r := range refusals {
		words = append(words, r.What)
	}
	all := strings.Join(words, "; ")
	if slices.ContainsFunc(words, func(w string) bool { _, known := judge(w); return !known }) {
		return classify(what, needsKeys, requestError(all))
	}
	return fmt.Errorf("cluster/consul: %s: %w: %s", what, cluster.ErrIndexMoved, all)
}

// requestError is why a transaction was refused as a whole, in Consul's words.
type requestError string

func (e requestError) Error() string { return string(e) }

func noSession(what string) error {
	return fmt.Errorf("cluster/consul: %s: %w: there is none", what, cluster.ErrSessionLost)
}
