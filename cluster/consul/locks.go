package consul

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/consul/api"

	"github.com/quern-io/quern/cluster"
)

const (
	// maxOps is how many operations Consul takes in one transaction.
	maxOps = 64
	// proofsAtOnce bounds the transactions of one proof that are under way
	// together, so that one which is slow does not hold up the others.
	proofsAtOnce = 4
)

// op makes an operation of a transaction.
func (a *Authority) op(op api.KVTxnOp) *api.TxnOp {
	op.Namespace, op.Partition = a.scope.namespace, a.scope.partition
	return &api.TxnOp{KV: &op}
}

// txn runs one transaction. It returns what is written or read of each key, or
// why operations were refused, in which case nothing is written; or an error,
// after which the outcome is not known.
func (a *Authority) txn(ctx context.Context, q *api.QueryOptions, ops api.TxnOps) (map[string]*api.KVPair, api.TxnErrors, error) {
	ok, response, _, err := a.api.Txn().Txn(ops, q.WithContext(ctx))
	if err != nil {
		return nil, nil, err //nolint:wrapcheck // classified by the callers
	}
	if !ok {
		if len(response.Errors) == 0 {
			return nil, nil, requestError("a transaction was refused without a reason")
		}
		return nil, response.Errors, nil
	}
	found := make(map[string]*api.KVPair, len(ops))
	for _, r := range response.Results {
		if r.KV != nil {
			found[r.KV.Key] = r.KV // of two operations on a key, the later
		}
	}
	for _, op := range ops {
		// Each verb in use answers with its key, but where the token may not
		// read it. That is no refusal: what was to be written, is.
		if found[op.KV.Key] == nil {
			return nil, nil, requestError("the answer to a transaction lacks the key " + op.KV.Key)
		}
	}
	return found, nil, nil
}

// Create implements cluster.Locks.
func (a *Authority) Create(ctx context.Context, locks []cluster.LockWrite) ([]cluster.Result, error) {
	return a.write(ctx, "create locks", locks, func(key string, _ cluster.LockWrite, value []byte) api.TxnOps {
		return api.TxnOps{a.op(api.KVTxnOp{Verb: api.KVCAS, Key: key, Value: value})}
	})
}

// Acquire implements cluster.Locks.
func (a *Authority) Acquire(ctx context.Context, s cluster.Session, locks []cluster.LockWrite) ([]cluster.Result, error) {
	return a.guarded(ctx, "acquire locks", api.KVLock, s, locks)
}

// Release implements cluster.Locks.
func (a *Authority) Release(ctx context.Context, s cluster.Session, locks []cluster.LockWrite) ([]cluster.Result, error) {
	return a.guarded(ctx, "release locks", api.KVUnlock, s, locks)
}

// guarded writes locks that are still as they were when they were read.
func (a *Authority) guarded(ctx context.Context, what string, verb api.KVOp, s cluster.Session, locks []cluster.LockWrite) ([]cluster.Result, error) {
	if s == "" {
		results := prepare(locks)
		settle(results, cluster.Refused)
		return results, noSession(what)
	}
	return a.write(ctx, what, locks, func(key string, l cluster.LockWrite, value []byte) api.TxnOps {
		return api.TxnOps{
			a.op(api.KVTxnOp{Verb: api.KVCheckIndex, Key: key, Index: l.Index}),
			a.op(api.KVTxnOp{Verb: verb, Key: key, Session: string(s), Value: value}),
		}
	})
}

// writer makes the operations on one lock, always as many.
type writer func(key string, l cluster.LockWrite, value []byte) api.TxnOps

// write runs the operations of all locks in transactions, one after the other.
// After one that failed as a whole no other is tried.
func (a *Authority) write(ctx context.Context, what string, locks []cluster.LockWrite, w writer) ([]cluster.Result, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	results := prepare(locks)
	units := make([]unit, len(locks))
	for i, l := range locks {
		value, err := encodeLock(l.Value)
		if err != nil {
			settle(results, cluster.Refused)
			return results, fmt.Errorf("cluster/consul: %s: %w", what, err)
		}
		key := a.keys.shard(l.Shard)
		units[i] = unit{key: key, ops: w(key, l, value), result: &results[i]}
	}
	for len(units) > 0 {
		n := min(len(units), maxOps/len(units[0].ops))
		if err := a.writeTogether(ctx, units[:n]); err != nil {
			err = classify(what, needsKeys, err)
			left := cluster.Unknown
			if refused(err) {
				left = cluster.Refused
			}
			fail(units[:n], left)
			fail(units[n:], cluster.Refused) // never sent
			return results, err
		}
		units = units[n:]
	}
	return results, nil
}

// unit is what a transaction does to one lock.
type unit struct {
	key    string
	ops    api.TxnOps
	result *cluster.Result
}

// fail gives a verdict to those that have none yet.
func fail(units []unit, v cluster.Verdict) {
	for _, u := range units {
		if u.result.Verdict == cluster.Unknown {
			u.result.Verdict = v
		}
	}
}

// writeTogether writes units in one transaction, again without those that it
// names, until it succeeds or nothing is left.
func (a *Authority) writeTogether(ctx context.Context, units []unit) error {
	pending := slices.Clone(units)
	for len(pending) > 0 {
		found, refusals, err := a.txn(ctx, nil, opsOf(pending))
		if err != nil {
			return err
		}
		if len(refusals) == 0 {
			for _, u := range pending {
				u.result.Verdict, u.result.Index = cluster.Done, found[u.key].ModifyIndex
			}
			return nil
		}
		if err := name(pending, refusals); err != nil {
			return err
		}
		pending = slices.DeleteFunc(pending, func(u unit) bool { return u.result.Verdict != cluster.Unknown })
	}
	return nil
}

func opsOf(units []unit) api.TxnOps {
	var ops api.TxnOps
	for _, u := range units {
		ops = append(ops, u.ops...)
	}
	return ops
}

// name gives a verdict to each unit that a transaction has refused, at least
// one. Of two reasons the one that says more counts. It fails where a reason is
// not one of a single lock.
func name(units []unit, refusals api.TxnErrors) error {
	verdicts := make([]cluster.Verdict, len(units))
	each := len(units[0].ops)
	for _, r := range refusals {
		v, known := judge(r.What)
		if !known || r.OpIndex < 0 || r.OpIndex/each >= len(units) {
			return requestError(r.What)
		}
		verdicts[r.OpIndex/each] = max(verdicts[r.OpIndex/each], v)
	}
	for i, v := range verdicts {
		units[i].result.Verdict = v
	}
	return nil
}

// Prove implements cluster.Locks.
func (a *Authority) Prove(ctx context.Context, s cluster.Session, shards []uint32) ([]cluster.Result, error) {
	const what = "prove locks"
	results := make([]cluster.Result, len(shards))
	units := make([]unit, len(shards))
	for i, shard := range shards {
		key := a.keys.shard(shard)
		results[i].Shard = shard
		units[i] = unit{key: key, result: &results[i], ops: api.TxnOps{
			a.op(api.KVTxnOp{Verb: api.KVCheckSession, Key: key, Session: string(s)}),
		}}
	}
	if s == "" {
		// Consul would find a free lock to be held by no session.
		settle(results, cluster.Refused)
		return results, noSession(what)
	}
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	err := classify(what, needsKeys, a.proveAll(ctx, units))
	if refused(err) {
		fail(units, cluster.Refused)
	}
	return results, err
}

// proveAll proves all units and returns one of the errors that came up.
func (a *Authority) proveAll(ctx context.Context, units []unit) error {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		slots = make(chan struct{}, proofsAtOnce)
	)
	for chunk := range slices.Chunk(units, maxOps) {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := a.proveTogether(ctx, chunk); err != nil {
				mu.Lock()
				defer mu.Unlock()
				first = err
			}
		})
	}
	wg.Wait()
	return first
}

func (a *Authority) proveTogether(ctx context.Context, units []unit) error {
	_, refusals, err := a.txn(ctx, query(ctx), opsOf(units))
	if err != nil {
		return err
	}
	if len(refusals) > 0 {
		if err := name(units, refusals); err != nil {
			return err
		}
	}
	// All operations were evaluated, at one moment.
	fail(units, cluster.Done)
	return nil
}

func prepare(locks []cluster.LockWrite) []cluster.Result {
	results := make([]cluster.Result, len(locks))
	for i, l := range locks {
		results[i].Shard = l.Shard
	}
	return results
}

func settle(results []cluster.Result, v cluster.Verdict) {
	for i := range results {
		results[i].Verdict = v
	}
}
