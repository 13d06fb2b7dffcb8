package server

import (
	"context"
	"log/slog"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// The methods of ClusterService. They are no operations on a grain.
var (
	clusterStatus = &handles.Method{Kind: "cluster", Name: "Status", Procedure: quernv1.ClusterService_Status_FullMethodName}
	clusterRoutes = &handles.Method{Kind: "cluster", Name: "Routes", Procedure: quernv1.ClusterService_Routes_FullMethodName}
	clusterWhere  = &handles.Method{Kind: "cluster", Name: "Where", Procedure: quernv1.ClusterService_Where_FullMethodName}
)

// counters is CounterService on one transport. grpc-go and Connect's simple
// mode want the same signatures.
type counters struct {
	quernv1.UnimplementedCounterServiceServer
	add, addMany, get, set, getAndSet, compareAndSet, reset, expire *caller
	watch                                                           *watchCaller
}

// newCounters builds the service; on makes a method's caller.
func newCounters(on func(*handles.Method) *caller) *counters {
	return &counters{
		add:           on(handles.CounterAdd),
		addMany:       on(handles.CounterAddMany),
		get:           on(handles.CounterGet),
		set:           on(handles.CounterSet),
		getAndSet:     on(handles.CounterGetAndSet),
		compareAndSet: on(handles.CounterCompareAndSet),
		reset:         on(handles.CounterReset),
		expire:        on(handles.CounterExpire),
		watch:         watching(on, handles.CounterWatch),
	}
}

// Add implements CounterService.
func (s *counters) Add(ctx context.Context, in *quernv1.CounterServiceAddRequest) (*quernv1.CounterServiceAddResponse, error) {
	u := new(unary[quernv1.CounterServiceAddResponse])
	return &u.reply, s.add.invoke(ctx, &u.op, in, &u.reply)
}

// AddMany implements CounterService.
func (s *counters) AddMany(ctx context.Context, in *quernv1.CounterServiceAddManyRequest) (*quernv1.CounterServiceAddManyResponse, error) {
	u := new(unary[quernv1.CounterServiceAddManyResponse])
	u.op.Method, u.op.IdempotencyKey, u.op.Request, u.op.Reply = handles.CounterAddMany, in.GetIdempotencyKey(), in, &u.reply
	return &u.reply, s.addMany.run(ctx, &u.op.Origin, (*operation)(&u.op))
}

// Get implements CounterService.
func (s *counters) Get(ctx context.Context, in *quernv1.CounterServiceGetRequest) (*quernv1.CounterServiceGetResponse, error) {
	u := new(unary[quernv1.CounterServiceGetResponse])
	return &u.reply, s.get.invoke(ctx, &u.op, in, &u.reply)
}

// Set implements CounterService.
func (s *counters) Set(ctx context.Context, in *quernv1.CounterServiceSetRequest) (*quernv1.CounterServiceSetResponse, error) {
	u := new(unary[quernv1.CounterServiceSetResponse])
	return &u.reply, s.set.invoke(ctx, &u.op, in, &u.reply)
}

// GetAndSet implements CounterService.
func (s *counters) GetAndSet(ctx context.Context, in *quernv1.CounterServiceGetAndSetRequest) (*quernv1.CounterServiceGetAndSetResponse, error) {
	u := new(unary[quernv1.CounterServiceGetAndSetResponse])
	return &u.reply, s.getAndSet.invoke(ctx, &u.op, in, &u.reply)
}

// CompareAndSet implements CounterService.
func (s *counters) CompareAndSet(ctx context.Context, in *quernv1.CounterServiceCompareAndSetRequest) (*quernv1.CounterServiceCompareAndSetResponse, error) {
	u := new(unary[quernv1.CounterServiceCompareAndSetResponse])
	return &u.reply, s.compareAndSet.invoke(ctx, &u.op, in, &u.reply)
}

// Reset implements CounterService.
func (s *counters) Reset(ctx context.Context, in *quernv1.CounterServiceResetRequest) (*quernv1.CounterServiceResetResponse, error) {
	u := new(unary[quernv1.CounterServiceResetResponse])
	return &u.reply, s.reset.invoke(ctx, &u.op, in, &u.reply)
}

// Expire implements CounterService.
func (s *counters) Expire(ctx context.Context, in *quernv1.CounterServiceExpireRequest) (*quernv1.CounterServiceExpireResponse, error) {
	u := new(unary[quernv1.CounterServiceExpireResponse])
	return &u.reply, s.expire.invoke(ctx, &u.op, in, &u.reply)
}

// entries is MapService on one transport.
type entries struct {
	quernv1.UnimplementedMapServiceServer
	put, get, del, compareAndSwap *caller
	watch                         *watchCaller
}

func newEntries(on func(*handles.Method) *caller) *entries {
	return &entries{
		put:            on(handles.MapPut),
		get:            on(handles.MapGet),
		del:            on(handles.MapDelete),
		compareAndSwap: on(handles.MapCompareAndSwap),
		watch:          watching(on, handles.MapWatch),
	}
}

// Put implements MapService.
func (s *entries) Put(ctx context.Context, in *quernv1.MapServicePutRequest) (*quernv1.MapServicePutResponse, error) {
	u := new(unary[quernv1.MapServicePutResponse])
	return &u.reply, s.put.invoke(ctx, &u.op, in, &u.reply)
}

// Get implements MapService.
func (s *entries) Get(ctx context.Context, in *quernv1.MapServiceGetRequest) (*quernv1.MapServiceGetResponse, error) {
	u := new(unary[quernv1.MapServiceGetResponse])
	return &u.reply, s.get.invoke(ctx, &u.op, in, &u.reply)
}

// Delete implements MapService.
func (s *entries) Delete(ctx context.Context, in *quernv1.MapServiceDeleteRequest) (*quernv1.MapServiceDeleteResponse, error) {
	u := new(unary[quernv1.MapServiceDeleteResponse])
	return &u.reply, s.del.invoke(ctx, &u.op, in, &u.reply)
}

// CompareAndSwap implements MapService.
func (s *entries) CompareAndSwap(ctx context.Context, in *quernv1.MapServiceCompareAndSwapRequest) (*quernv1.MapServiceCompareAndSwapResponse, error) {
	u := new(unary[quernv1.MapServiceCompareAndSwapResponse])
	return &u.reply, s.compareAndSwap.invoke(ctx, &u.op, in, &u.reply)
}

// locks is LockService on one transport.
type locks struct {
	quernv1.UnimplementedLockServiceServer
	acquire, renew, release, forceRelease, get *caller
	watch, hold                                *watchCaller
}

func newLocks(on func(*handles.Method) *caller) *locks {
	return &locks{
		acquire:      on(handles.LockAcquire),
		renew:        on(handles.LockRenew),
		release:      on(handles.LockRelease),
		forceRelease: on(handles.LockForceRelease),
		get:          on(handles.LockGet),
		watch:        watching(on, handles.LockWatch),
		hold:         &watchCaller{on(handles.LockHolding.Method), handles.LockHolding, serveHold},
	}
}

// Acquire implements LockService. It holds the call until the lock was had or
// the wait is over; a call that ends before leaves the queue.
func (s *locks) Acquire(ctx context.Context, in *quernv1.LockServiceAcquireRequest) (*quernv1.LockServiceAcquireResponse, error) {
	in.ProtoReflect().SetUnknown(nil) // it may be kept for long
	u := new(unary[quernv1.LockServiceAcquireResponse])
	return &u.reply, s.acquire.invoke(ctx, &u.op, in, &u.reply)
}

// Renew implements LockService.
func (s *locks) Renew(ctx context.Context, in *quernv1.LockServiceRenewRequest) (*quernv1.LockServiceRenewResponse, error) {
	u := new(unary[quernv1.LockServiceRenewResponse])
	return &u.reply, s.renew.invoke(ctx, &u.op, in, &u.reply)
}

// Release implements LockService.
func (s *locks) Release(ctx context.Context, in *quernv1.LockServiceReleaseRequest) (*quernv1.LockServiceReleaseResponse, error) {
	u := new(unary[quernv1.LockServiceReleaseResponse])
	return &u.reply, s.release.invoke(ctx, &u.op, in, &u.reply)
}

// ForceRelease implements LockService.
func (s *locks) ForceRelease(ctx context.Context, in *quernv1.LockServiceForceReleaseRequest) (*quernv1.LockServiceForceReleaseResponse, error) {
	s.forceRelease.log.WarnContext(ctx, "a lock is released by force", slog.String("key", in.GetKey()), slog.String("reason", in.GetReason()))
	u := new(unary[quernv1.LockServiceForceReleaseResponse])
	return &u.reply, s.forceRelease.invoke(ctx, &u.op, in, &u.reply)
}

// Get implements LockService.
func (s *locks) Get(ctx context.Context, in *quernv1.LockServiceGetRequest) (*quernv1.LockServiceGetResponse, error) {
	u := new(unary[quernv1.LockServiceGetResponse])
	return &u.reply, s.get.invoke(ctx, &u.op, in, &u.reply)
}

// transactions is TransactionService on one transport.
type transactions struct {
	quernv1.UnimplementedTransactionServiceServer
	commit *caller
}

func newTransactions(on func(*handles.Method) *caller) *transactions {
	return &transactions{commit: on(handles.TransactionCommit)}
}

// Commit implements TransactionService.
func (s *transactions) Commit(ctx context.Context, in *quernv1.TransactionServiceCommitRequest) (*quernv1.TransactionServiceCommitResponse, error) {
	u := new(unary[quernv1.TransactionServiceCommitResponse])
	return &u.reply, s.commit.invoke(ctx, &u.op, in, &u.reply)
}

// invoke runs an operation. After an error the reply must not be looked at:
// the shard may still be using it.
func (c *caller) invoke(ctx context.Context, op *handles.Operation, in keyedMessage, reply proto.Message) error {
	op.Method, op.Key, op.Request, op.Reply = c.method, in.GetKey(), in, reply
	if w, ok := in.(once); ok {
		op.IdempotencyKey = w.GetIdempotencyKey()
	}
	return c.run(ctx, &op.Origin, (*operation)(op))
}

// operation is the work of a call on a grain.
type operation handles.Operation

func (o *operation) run(ctx context.Context, b Backend) error {
	return b.Invoke(ctx, (*handles.Operation)(o)) //nolint:wrapcheck // mapped by its caller
}

type keyedMessage interface {
	proto.Message
	keyed
}

// clusters is ClusterService on one transport.
type clusters struct {
	quernv1.UnimplementedClusterServiceServer
	status, where, routes *caller
}

func newClusters(on func(*handles.Method) *caller) *clusters {
	return &clusters{status: on(clusterStatus), where: on(clusterWhere), routes: on(clusterRoutes)}
}

// Status implements ClusterService.
func (s *clusters) Status(ctx context.Context, _ *quernv1.ClusterServiceStatusRequest) (out *quernv1.ClusterServiceStatusResponse, err error) {
	var nobody handles.Origin
	err = s.status.run(ctx, &nobody, workFunc(func(ctx context.Context, b Backend) (err error) {
		out, err = b.Status(ctx)
		return err //nolint:wrapcheck // mapped by its caller
	}))
	return out, err
}

// Where implements ClusterService.
func (s *clusters) Where(ctx context.Context, in *quernv1.ClusterServiceWhereRequest) (out *quernv1.ClusterServiceWhereResponse, err error) {
	var origin handles.Origin
	err = s.where.run(ctx, &origin, workFunc(func(ctx context.Context, b Backend) (err error) {
		out, err = b.Where(ctx, in.GetKey())
		origin = handles.Origin{Node: out.GetNode(), Shard: out.GetShard(), Epoch: out.GetEpoch()}
		return err //nolint:wrapcheck // mapped by its caller
	}))
	return out, err
}
