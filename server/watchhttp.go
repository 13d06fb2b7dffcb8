package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// connectCounters is CounterService as Connect wants it: streams have other
// signatures there than with gRPC.
type connectCounters struct{ *counters }

// Watch implements quernv1connect.CounterServiceHandler.
func (s connectCounters) Watch(ctx context.Context, in *quernv1.CounterServiceWatchRequest, out *connect.ServerStream[quernv1.CounterServiceWatchResponse]) error {
	return s.watch.connect(ctx, in, out.Conn())
}

// connectEntries is MapService as Connect wants it.
type connectEntries struct{ *entries }

// Watch implements quernv1connect.MapServiceHandler.
func (s connectEntries) Watch(ctx context.Context, in *quernv1.MapServiceWatchRequest, out *connect.ServerStream[quernv1.MapServiceWatchResponse]) error {
	return s.watch.connect(ctx, in, out.Conn())
}

// connectLocks is LockService as Connect wants it.
type connectLocks struct{ *locks }

// Watch implements quernv1connect.LockServiceHandler.
func (s connectLocks) Watch(ctx context.Context, in *quernv1.LockServiceWatchRequest, out *connect.ServerStream[quernv1.LockServiceWatchResponse]) error {
	return s.watch.connect(ctx, in, out.Conn())
}

// Hold implements quernv1connect.LockServiceHandler.
func (s connectLocks) Hold(ctx context.Context, in *quernv1.LockServiceHoldRequest, out *connect.ServerStream[quernv1.LockServiceHoldResponse]) error {
	return s.hold.connect(ctx, in, out.Conn())
}

func (c *watchCaller) connect(ctx context.Context, in keyedMessage, out connect.StreamingHandlerConn) error {
	if whole, ok := ctx.Value(wholeKey{}).(func()); ok {
		whole()
	}
	return c.watch(ctx, out.Peer().Addr, in, connectSink{out})
}

// wholeKey is where a watch over Connect finds a function that ends the deadline
// of its request, when the last of it was read.
type wholeKey struct{}

// whole ends the deadline of a request's arrival: a watch lasts longer. What is
// not read of the request stays under it, since net/http reads that too, before
// it ends the call.
func whole(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err == nil {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	}
}

// connectSink is the stream of a watch over Connect and gRPC-Web.
type connectSink struct{ conn connect.StreamingHandlerConn }

// Send implements sink.
func (s connectSink) Send(e *handles.Event) error {
	return s.conn.Send(shared(e)) //nolint:wrapcheck // of the transport
}

// serveWatch puts a watching method before its service. Who posts plain JSON, as
// with any other method, gets a line of JSON for each event, so that curl can
// watch; the rest is left to next.
func serveWatch(mux *http.ServeMux, c *watchCaller, next http.Handler) {
	mux.HandleFunc("POST "+c.method.Procedure, func(w http.ResponseWriter, r *http.Request) {
		if !isPlainJSON(r) {
			ctx := context.WithValue(r.Context(), wholeKey{}, func() { whole(w, r) })
			next.ServeHTTP(w, r.WithContext(ctx))
			return
		}
		in := c.method.Request("")
		err := readJSON(r, in)
		lines := &lineSink{w: w, r: r}
		if err == nil {
			whole(w, r)
			line, request := *c.caller, in.(keyedMessage) //nolint:errcheck,forcetypeassert // every such request has a key
			line.face = lines
			err = (&watchCaller{&line, c.method, c.serve}).watch(r.Context(), r.RemoteAddr, request, lines)
		}
		lines.end(err)
	})
}

func isPlainJSON(r *http.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "application/json"
}

// readJSON reads a request.
func readJSON(r *http.Request, into proto.Message) error {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = jsonCodec{}.Unmarshal(body, into)
	}
	if err == nil {
		return nil
	}
	if c := (*connect.Error)(nil); errors.As(err, &c) {
		return c // the body was too large
	}
	return connectFailure(failure.New(failure.InvalidField, "the message does not decode: %v", err))
}

// lineSink writes a line of JSON for each event. It is the face of its watch.
type lineSink struct {
	w     http.ResponseWriter
	r     *http.Request
	begun bool
}

// Send implements sink.
func (s *lineSink) Send(e *handles.Event) error {
	line, err := shared(e).encoded("json", marshalJSON)
	if err != nil {
		return err
	}
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "application/x-ndjson")
		s.w.Header().Set("X-Content-Type-Options", "nosniff")
	}
	if _, err := s.w.Write(append(slices.Clip(line), '\n')); err != nil {
		return fmt.Errorf("server: write an event: %w", err)
	}
	return http.NewResponseController(s.w).Flush() //nolint:wrapcheck // the client has left
}

func (s *lineSink) answered(_ context.Context, o handles.Origin) { setOrigin(s.w.Header(), o) }

func (*lineSink) fail(_ context.Context, e *failure.Error) error { return connectFailure(e) }

// end says why the watch has ended: as the answer, where there was no event, else
// in the last line.
func (s *lineSink) end(err error) {
	c := (*connect.Error)(nil)
	if !errors.As(err, &c) {
		return // the client has left
	}
	if !s.begun {
		_ = connect.NewErrorWriter().Write(s.w, s.r, c)
		return
	}
	last := struct {
		Error struct {
			Code    string `json:"code"`
			Reason  string `json:"reason"`
			Message string `json:"message"`
		} `json:"error"`
	}{}
	last.Error.Code, last.Error.Reason, last.Error.Message = c.Code().String(), c.Meta().Get(httpReason), c.Message()
	_ = json.NewEncoder(s.w).Encode(last)
}
