package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/wire"
)

// silentWatch is how long a watch waits for an event or a heartbeat before it is
// begun anew.
const silentWatch = 5 * handles.WatchHeartbeat / 2

var (
	watchDesc      = grpc.StreamDesc{StreamName: "Watch", ServerStreams: true}
	errSilentWatch = failure.New(failure.Unreachable, "the node has said nothing for %v", silentWatch)
)

// Watch implements handles.Watcher. It goes on over broken connections and
// restarts of nodes, for as long as ctx lasts.
func (c *Client) Watch(ctx context.Context, w *handles.Watch) error {
	if !utf8.ValidString(w.Key) {
		return failure.New(failure.InvalidKey, "the key is not valid UTF-8")
	}
	if c.conn == nil {
		return errNoCalls
	}
	return handles.Rewatch(ctx, w, c.watchOnce, func(error) bool { return c.closed.Load() })
}

// watchOnce watches over one stream until that ends.
func (c *Client) watchOnce(ctx context.Context, w *handles.Watch) error {
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(silentWatch, func() { cancel(errSilentWatch) })
	var reader sync.WaitGroup
	defer silence.Stop()
	defer reader.Wait()
	defer cancel(nil)
	w.Origin = handles.Origin{}
	stream, err := c.openWatch(ctx, w)
	if err != nil {
		return c.watchFailure(ctx, err)
	}
	last := watchSlot{wake: make(chan struct{}, 1)}
	reader.Go(func() {
		from := handles.Origin{}
		for {
			m := w.Method.Message()
			err := stream.RecvMsg(m)
			if from.Node == "" && err == nil {
				header, _ := stream.Header() // came before the message
				from = origin(header)
			}
			if last.put(from, m, err); err != nil {
				return
			}
			silence.Reset(silentWatch)
		}
	})
	for {
		from, e, err := last.take()
		if err != nil {
			return c.watchFailure(ctx, err)
		}
		w.Origin, w.Origin.Epoch = from, e.Message().GetEpoch()
		if err := w.Each(e); err != nil {
			return err
		}
	}
}

// watchSlot holds the last event for a reader that takes its time: what lies in
// the stream meanwhile would be old.
type watchSlot struct {
	mu    sync.Mutex // guards all but wake
	from  handles.Origin
	event *handles.Event
	err   error
	wake  chan struct{} // room for one
}

func (s *watchSlot) put(from handles.Origin, m handles.WatchMessage, err error) {
	e := handles.NewEvent(m)
	s.mu.Lock()
	s.from = from
	switch {
	case err != nil:
		s.err = err
	case e.After(s.event): // and no heartbeat of it
		s.event = e
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take waits for an event that was not taken, or for the end.
func (s *watchSlot) take() (handles.Origin, *handles.Event, error) {
	for {
		s.mu.Lock()
		from, e, err := s.from, s.event, s.err
		s.event = nil
		s.mu.Unlock()
		switch {
		case e != nil:
			return from, e, nil
		case err != nil:
			return from, nil, err
		}
		<-s.wake // the reader ends with the stream
	}
}

func (c *Client) openWatch(ctx context.Context, w *handles.Watch) (grpc.ClientStream, error) {
	stream, err := c.conn.NewStream(ctx, &watchDesc, w.Method.Procedure,
		grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(c.options.MaxMessageBytes))
	if err != nil {
		return nil, err //nolint:wrapcheck // read by watchFailure
	}
	if err := stream.SendMsg(w.Method.Request(w.Key)); err != nil && !errors.Is(err, io.EOF) {
		return nil, err //nolint:wrapcheck // as above; after EOF the reader knows more
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err //nolint:wrapcheck // as above
	}
	return stream, nil
}

// watchFailure says why a stream ended. A watch changes nothing, so that nothing
// of it can be unknown: what is not a node's refusal is UNREACHABLE.
func (c *Client) watchFailure(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return handles.WatchEnded(ctx)
	}
	st := status.Convert(err)
	if e, ok := wire.FromStatus(st); ok && e.Reason != failure.Canceled {
		return e
	}
	if st.Code() == codes.Unimplemented {
		return failure.Wrap(err, failure.UnknownMethod, "%s", st.Message())
	}
	return failure.Wrap(&unreachable{err: err}, failure.Unreachable, "the stream from %s broke: %s", c.addrs, st.Message())
}
