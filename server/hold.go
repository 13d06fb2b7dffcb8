package server

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// holdRelease bounds the release of a lock whose client has left.
const holdRelease = 5 * time.Second

// serveHold holds a lock for as long as the call lasts: a lease of the node's
// own does what one of the Go client does elsewhere.
func serveHold(ctx context.Context, b Backend, c *watchCaller, in keyedMessage, to sink) (err error) {
	q, ok := in.(*quernv1.LockServiceHoldRequest)
	if !ok {
		return failure.New(failure.UnknownMethod, "%T holds no lock", in)
	}
	through := &originOf{Backend: b}
	lock := handles.NewLock(through, q.GetKey())
	if g := q.GetGuard(); g != nil {
		lock = lock.Guarded(handles.Guard{Lock: g.GetLock(), Token: g.GetToken()})
	}
	lease, err := lock.Acquire(ctx, holdOptions(q))
	if origin := through.last(); origin.Node != "" {
		c.face.answered(ctx, origin)
	}
	if err != nil {
		return err //nolint:wrapcheck // mapped by its caller
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), holdRelease)
		defer cancel()
		if e := lease.Release(ctx); e != nil && !errors.Is(e, failure.NotHolder) {
			err = errors.Join(err, e)
		}
	}()
	return tellHold(ctx, c, lease, through.last().Epoch, to)
}

// tellHold tells that the lock is held until it is not.
func tellHold(ctx context.Context, c *watchCaller, lease *handles.Lease, epoch uint64, to sink) error {
	ticker := time.NewTicker(c.heartbeat)
	defer ticker.Stop()
	for n := uint64(1); ; n++ {
		err := to.Send(handles.NewEvent(&quernv1.LockServiceHoldResponse{
			Epoch: epoch, Sequence: n, Token: lease.Token(), Owner: lease.Owner(), Ttl: durationpb.New(lease.TTL()),
		}))
		if err != nil {
			return sendError{err}
		}
		select {
		case <-ticker.C:
		case <-lease.Lost():
			return lease.Err() //nolint:wrapcheck // a *failure.Error
		case <-ctx.Done():
			return context.Cause(ctx) //nolint:wrapcheck // why the call has ended
		}
	}
}

func holdOptions(q *quernv1.LockServiceHoldRequest) handles.LockOptions {
	o := handles.LockOptions{TTL: q.GetTtl().AsDuration(), Shared: q.GetShared(), Permits: q.GetPermits(), Owner: q.GetOwner()}
	if q.GetWait() != nil {
		if o.Wait = q.GetWait().AsDuration(); o.Wait <= 0 {
			o.Wait = -1
		}
	}
	return o
}

// originOf remembers who answered last.
type originOf struct {
	Backend

	mu     sync.Mutex
	origin handles.Origin // guarded by mu
}

// Invoke implements handles.Invoker.
func (o *originOf) Invoke(ctx context.Context, op *handles.Operation) error {
	err := o.Backend.Invoke(ctx, op)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.origin = op.Origin
	return err //nolint:wrapcheck // mapped by its caller
}

func (o *originOf) last() handles.Origin {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.origin
}
