package quern_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// keyed is a request on a key.
type keyed interface {
	proto.Message
	GetKey() string
}

// refusal is a request that must be refused.
type refusal struct {
	method  *handles.Method
	request keyed
	reply   proto.Message
	reason  failure.Reason
}

func acquireOf(q *quernv1.LockServiceAcquireRequest, reason failure.Reason) refusal {
	return refusal{handles.LockAcquire, q, &quernv1.LockServiceAcquireResponse{}, reason}
}

func renewOf(key string, token uint64, ttl time.Duration, reason failure.Reason) refusal {
	q := &quernv1.LockServiceRenewRequest{Key: key, Token: token, Ttl: durationpb.New(ttl)}
	return refusal{handles.LockRenew, q, &quernv1.LockServiceRenewResponse{}, reason}
}

func releaseOf(q *quernv1.LockServiceReleaseRequest, reason failure.Reason) refusal {
	return refusal{handles.LockRelease, q, &quernv1.LockServiceReleaseResponse{}, reason}
}

func commitOf(q *quernv1.TransactionServiceCommitRequest, reason failure.Reason) refusal {
	return refusal{handles.TransactionCommit, q, &quernv1.TransactionServiceCommitResponse{}, reason}
}

const (
	hour = time.Hour
	year = 365 * 24 * time.Hour
)

// lockRefusals are about the lock k that "me" holds under a token, gone under
// which no lease runs any more, and {k}shared that "me" holds with others. The
// tokens of one shard differ.
func lockRefusals(held, gone, shared uint64) map[string]refusal {
	ttl, long := durationpb.New(hour), strings.Repeat("x", 129)
	return map[string]refusal{
		"a lease of zero":              acquireOf(&quernv1.LockServiceAcquireRequest{Key: "x", Owner: "o", Ttl: durationpb.New(0)}, failure.InvalidField),
		"no lease":                     acquireOf(&quernv1.LockServiceAcquireRequest{Key: "x", Owner: "o"}, failure.InvalidField),
		"a negative lease":             acquireOf(&quernv1.LockServiceAcquireRequest{Key: "x", Owner: "o", Ttl: durationpb.New(-hour)}, failure.InvalidField),
		"a lease of a year":            acquireOf(&quernv1.LockServiceAcquireRequest{Key: "x", Owner: "o", Ttl: durationpb.New(year)}, failure.InvalidField),
		"a wait of a year":             acquireOf(&quernv1.LockServiceAcquireRequest{Key: "x", Owner: "o", Ttl: ttl, Wait: durationpb.New(year)}, failure.InvalidField),
		"a negative wait":              acquireOf(&quernv1.LockServiceAcquireRequest{Key: "x", Owner: "o", Ttl: ttl, Wait: durationpb.New(-1)}, failure.InvalidField),
		"no owner":                     acquireOf(&quernv1.LockServiceAcquireRequest{Key: "x", Ttl: ttl}, failure.InvalidField),
		"a long owner":                 acquireOf(&quernv1.LockServiceAcquireRequest{Key: "x", Owner: long, Ttl: ttl}, failure.InvalidField),
		"no key":                       acquireOf(&quernv1.LockServiceAcquireRequest{Owner: "o", Ttl: ttl}, failure.InvalidKey),
		"a long key":                   acquireOf(&quernv1.LockServiceAcquireRequest{Key: strings.Repeat("k", 513), Owner: "o", Ttl: ttl}, failure.InvalidKey),
		"too many permits":             acquireOf(&quernv1.LockServiceAcquireRequest{Key: "x", Owner: "o", Ttl: ttl, Permits: 100_001}, failure.InvalidField),
		"other permits":                acquireOf(&quernv1.LockServiceAcquireRequest{Key: "k", Owner: "o", Ttl: ttl, Permits: 2}, failure.InvalidField),
		"other permits by its holder":  acquireOf(&quernv1.LockServiceAcquireRequest{Key: "k", Owner: "me", Ttl: ttl, Permits: 2}, failure.InvalidField),
		"other permits, ready to wait": acquireOf(&quernv1.LockServiceAcquireRequest{Key: "k", Owner: "o", Ttl: ttl, Wait: ttl, Permits: 2}, failure.InvalidField),
		"shared by its holder":         acquireOf(&quernv1.LockServiceAcquireRequest{Key: "k", Owner: "me", Ttl: ttl, Shared: true}, failure.InvalidField),
		"alone by who shares it":       acquireOf(&quernv1.LockServiceAcquireRequest{Key: "{k}shared", Owner: "me", Ttl: ttl}, failure.InvalidField),
		"a renewal by zero":            renewOf("k", held, 0, failure.InvalidField),
		"a renewal by a year":          renewOf("k", held, year, failure.InvalidField),
		"a renewal without a token":    renewOf("k", 0, hour, failure.NotHolder),
		"a renewal by a wrong token":   renewOf("k", held+1, hour, failure.NotHolder),
		"a renewal of another lock":    renewOf("k", shared, hour, failure.NotHolder),
		"a renewal of a lost lease":    renewOf("gone", gone, hour, failure.NotHolder),
		"a release by a wrong token":   releaseOf(&quernv1.LockServiceReleaseRequest{Key: "k", Token: held + 1}, failure.NotHolder),
		"a release of another lock":    releaseOf(&quernv1.LockServiceReleaseRequest{Key: "x", Token: held}, failure.NotHolder),
		"a release by a lost token":    releaseOf(&quernv1.LockServiceReleaseRequest{Key: "gone", Token: gone}, failure.NotHolder),
		"a release of another's hold":  releaseOf(&quernv1.LockServiceReleaseRequest{Key: "k", Token: held, Owner: "o"}, failure.NotHolder),
		"a release by a stranger":      releaseOf(&quernv1.LockServiceReleaseRequest{Key: "k", Owner: "o"}, failure.NotHolder),
		"a release of nothing":         releaseOf(&quernv1.LockServiceReleaseRequest{Key: "k"}, failure.InvalidField),
		"forced without a cause": {
			handles.LockForceRelease, &quernv1.LockServiceForceReleaseRequest{Key: "k"},
			&quernv1.LockServiceForceReleaseResponse{}, failure.InvalidField,
		},
		"forced with a long story": {
			handles.LockForceRelease, &quernv1.LockServiceForceReleaseRequest{Key: "k", Reason: strings.Repeat("x", 513)},
			&quernv1.LockServiceForceReleaseResponse{}, failure.InvalidField,
		},
	}
}

func addOf(key string) *quernv1.TransactionOperation {
	return &quernv1.TransactionOperation{Operation: &quernv1.TransactionOperation_CounterAdd{CounterAdd: &quernv1.CounterServiceAddRequest{Key: key}}}
}

func putOf(key string, bytes int) *quernv1.TransactionOperation {
	return &quernv1.TransactionOperation{Operation: &quernv1.TransactionOperation_MapPut{MapPut: &quernv1.MapServicePutRequest{Key: key, Value: make([]byte, bytes)}}}
}

func times(n int, o *quernv1.TransactionOperation) (all []*quernv1.TransactionOperation) {
	for range n {
		all = append(all, o)
	}
	return all
}

// transactionRefusals would all begin with an add to the counter {k}n.
func transactionRefusals(held uint64) map[string]refusal {
	commit := func(reason failure.Reason, conditions []*quernv1.TransactionCondition, more ...*quernv1.TransactionOperation) refusal {
		return commitOf(&quernv1.TransactionServiceCommitRequest{
			Key: "k", Conditions: conditions, Operations: append([]*quernv1.TransactionOperation{addOf("{k}n")}, more...),
		}, reason)
	}
	lock := func(key string, token uint64) []*quernv1.TransactionCondition {
		return []*quernv1.TransactionCondition{{Condition: &quernv1.TransactionCondition_Lock{Lock: &quernv1.LockCondition{Key: key, Token: token}}}}
	}
	version := []*quernv1.TransactionCondition{{Condition: &quernv1.TransactionCondition_Map{
		Map: &quernv1.MapCondition{Key: "{k}absent", Expected: &quernv1.MapCondition_Version{Version: 7}},
	}}}
	return map[string]refusal{
		"over two shards":            commit(failure.CrossShard, nil, addOf("elsewhere")),
		"a thousand operations":      commit(failure.InvalidField, nil, times(1000, addOf("{k}n"))...),
		"one operation too many":     commit(failure.InvalidField, nil, times(128, addOf("{k}n"))...),
		"a thousand conditions":      commit(failure.InvalidField, slicesOf(1000, version[0])),
		"an empty operation":         commit(failure.InvalidField, nil, &quernv1.TransactionOperation{}),
		"a value over the limit":     commit(failure.Limit, nil, putOf("{k}m", 65_537)),
		"values over a megabyte":     commit(failure.Limit, nil, times(17, putOf("{k}m", 65_000))...),
		"a bad key":                  commit(failure.InvalidKey, nil, addOf("")),
		"a version of what is not":   commit(failure.ConditionFailed, version),
		"under a wrong token":        commit(failure.ConditionFailed, lock("k", held+1)),
		"under no token":             commit(failure.InvalidField, lock("k", 0)),
		"under another lock's token": commit(failure.ConditionFailed, lock("{k}other", held)),
		"nothing at all":             commitOf(&quernv1.TransactionServiceCommitRequest{Key: "k"}, failure.InvalidField),
	}
}

func slicesOf[T any](n int, v T) (all []T) {
	for range n {
		all = append(all, v)
	}
	return all
}

// mapRefusals are about entries that are not there.
func mapRefusals() map[string]refusal {
	seven := uint64(7)
	put := func(q *quernv1.MapServicePutRequest, reason failure.Reason) refusal {
		return refusal{handles.MapPut, q, &quernv1.MapServicePutResponse{}, reason}
	}
	return map[string]refusal{
		"a put over what is not":      put(&quernv1.MapServicePutRequest{Key: "absent", IfVersion: &seven}, failure.ConditionFailed),
		"a put over the limit":        put(&quernv1.MapServicePutRequest{Key: "absent", Value: make([]byte, 65_537)}, failure.Limit),
		"a delete of what is not so":  {handles.MapDelete, &quernv1.MapServiceDeleteRequest{Key: "absent", IfVersion: &seven}, &quernv1.MapServiceDeleteResponse{}, failure.ConditionFailed},
		"a swap by a value too large": {handles.MapCompareAndSwap, &quernv1.MapServiceCompareAndSwapRequest{Key: "absent", Value: make([]byte, 65_537)}, &quernv1.MapServiceCompareAndSwapResponse{}, failure.Limit},
	}
}

// TestRefusalsOnEveryWay: what is wrong with a request is said by its reason, as
// not done, on every way in; nothing has changed then.
func TestRefusalsOnEveryWay(t *testing.T) {
	t.Parallel()
	node, ways := fronts(t)
	grant := func(key, owner string, o quern.LockOptions) uint64 {
		o.Owner, o.TTL = owner, hour
		g, err := node.Lock(key).Grant(t.Context(), o)
		if err != nil || !g.Held {
			t.Fatalf("%+v, %v", g, err)
		}
		return g.Token
	}
	held, gone := grant("k", "me", quern.LockOptions{}), grant("gone", "me", quern.LockOptions{})
	shared := grant("{k}shared", "me", quern.LockOptions{Shared: true})
	grant("{k}shared", "you", quern.LockOptions{Shared: true})
	if err := node.Lock("gone").Release(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	look := func() (all []handles.LockInfo) {
		for _, key := range []string{"k", "gone", "{k}shared", "x"} {
			all = append(all, seenLock(t, node.Lock(key)))
		}
		return all
	}
	before := look()
	for way, to := range ways {
		for _, rows := range []map[string]refusal{lockRefusals(held, gone, shared), transactionRefusals(held), mapRefusals()} {
			for name, row := range rows {
				err := ask(t.Context(), to, row.method, row.request, row.reply)
				if !errors.Is(err, row.reason) || failure.OutcomeOf(err) != failure.NotDone {
					t.Errorf("%s, %s: %v, want %v", way, name, err, row.reason)
				}
			}
		}
		var swap quernv1.MapServiceCompareAndSwapResponse
		if err := ask(t.Context(), to, handles.MapCompareAndSwap, &quernv1.MapServiceCompareAndSwapRequest{Key: "absent", ExpectedVersion: 7}, &swap); err != nil || swap.GetSwapped() {
			t.Errorf("%s: a swap of what is not: %v, %v", way, &swap, err)
		}
	}
	if after := look(); !reflect.DeepEqual(before, after) {
		t.Errorf("from %+v to %+v", before, after)
	}
	n, err := node.Counter("{k}n").Get(t.Context())
	absent, err2 := node.Map("absent").Get(t.Context())
	if n != 0 || absent.Found() || errors.Join(err, err2) != nil {
		t.Errorf("%d, %+v, %v", n, absent, errors.Join(err, err2))
	}
	if err := node.Lock("k").Renew(t.Context(), held, hour); err != nil {
		t.Error(err)
	}
}

// TestReleaseTwice: the second one is told, on every way in.
func TestReleaseTwice(t *testing.T) {
	t.Parallel()
	node, ways := fronts(t)
	for way, to := range ways {
		g, err := node.Lock("k").Grant(t.Context(), quern.LockOptions{Owner: way, TTL: hour})
		if err != nil || !g.Held {
			t.Fatalf("%+v, %v", g, err)
		}
		release := releaseOf(&quernv1.LockServiceReleaseRequest{Key: "k", Token: g.Token}, failure.NotHolder)
		if err := ask(t.Context(), to, release.method, release.request, release.reply); err != nil {
			t.Errorf("%s: %v", way, err)
		}
		if err := ask(t.Context(), to, release.method, release.request, release.reply); !errors.Is(err, failure.NotHolder) {
			t.Errorf("%s, again: %v", way, err)
		}
	}
}
