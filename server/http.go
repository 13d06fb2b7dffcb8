package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"github.com/VictoriaMetrics/metrics"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/wire"
	"github.com/quern-io/quern/messages/quern/v1/quernv1connect"
)

// Canonical forms of the headers.
var (
	httpNode   = http.CanonicalHeaderKey(wire.HeaderNode)
	httpShard  = http.CanonicalHeaderKey(wire.HeaderShard)
	httpEpoch  = http.CanonicalHeaderKey(wire.HeaderEpoch)
	httpReason = http.CanonicalHeaderKey(wire.HeaderReason)
)

// compressFrom is the size of the smallest reply that is compressed for those
// who accept that; for less it costs more than it saves.
const compressFrom = 1024

// envelopeBytes is what gRPC-Web puts before a message.
const envelopeBytes = 5

// newHTTP builds the HTTP server of a listener bound to this address.
func (s *Server) newHTTP(bound string) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           s.counted(localOnly(bound, s.cfg.HTTP, s.bounded(s.routes()))),
		Protocols:         &protocols,
		ReadHeaderTimeout: s.cfg.HandshakeTimeout,
		ReadTimeout:       s.cfg.ReadTimeout,
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: s.cfg.MaxStreams,
			SendPingTimeout:      s.cfg.KeepAlive,
			PingTimeout:          s.cfg.KeepAlive,
		},
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
}

func (s *Server) routes() http.Handler {
	options := []connect.HandlerOption{
		connect.WithReadMaxBytes(s.cfg.MaxMessageBytes),
		connect.WithCompressMinBytes(compressFrom),
	}
	for _, codec := range jsonCodecs() {
		options = append(options, connect.WithCodec(codec))
	}
	on := s.callers("http", connectFace{})
	mux := http.NewServeMux()
	counters, entries, locks := newCounters(on), newEntries(on), newLocks(on)
	path, handler := quernv1connect.NewCounterServiceHandler(connectCounters{counters}, options...)
	mux.Handle(path, handler)
	serveWatch(mux, counters.watch, handler)
	path, handler = quernv1connect.NewMapServiceHandler(connectEntries{entries}, options...)
	mux.Handle(path, handler)
	serveWatch(mux, entries.watch, handler)
	path, handler = quernv1connect.NewLockServiceHandler(connectLocks{locks}, options...)
	mux.Handle(path, handler)
	serveWatch(mux, locks.watch, handler)
	serveWatch(mux, locks.hold, handler)
	mux.Handle(quernv1connect.NewTransactionServiceHandler(newTransactions(on), options...))
	mux.Handle(quernv1connect.NewClusterServiceHandler(newClusters(on), options...))
	mux.HandleFunc("GET /metrics", s.serveMetrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeText(w, http.StatusOK, "ok")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.ready(); err != nil {
			writeText(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		writeText(w, http.StatusOK, "ok")
	})
	return mux
}

func (s *Server) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	s.cfg.Metrics.WritePrometheus(w)
	metrics.WriteProcessMetrics(w)
}

func writeText(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n")
}

// counted lets Stop wait for the handlers, which http.Server does not.
func (s *Server) counted(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.handlers.Add(1)
		defer s.handlers.Done()
		next.ServeHTTP(w, r)
	})
}

// bounded ends a body at the largest message with LIMIT. Connect would read
// what follows to its end, and call it resource_exhausted, which means
// OVERLOADED here.
func (s *Server) bounded(next http.Handler) http.Handler {
	tooLarge := connectFailure(errTooLarge(s.cfg.MaxMessageBytes))
	errorWriter := connect.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit := int64(s.cfg.MaxMessageBytes)
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			limit += envelopeBytes
		}
		if r.ContentLength > limit {
			w.Header().Set("Connection", "close") // the body stays unread
			_ = errorWriter.Write(w, r, tooLarge)
			return
		}
		if r.ContentLength < 0 {
			r.Body = &boundedBody{ReadCloser: r.Body, left: limit, err: tooLarge}
		}
		next.ServeHTTP(w, r)
	})
}

// boundedBody is a body that fails with err beyond its bound. Connect passes
// an error of its own type on as it is.
type boundedBody struct {
	io.ReadCloser
	left int64
	err  error
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, b.err
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.left < 0 {
		return n, b.err
	}
	return n, err //nolint:wrapcheck // io.EOF must stay io.EOF
}

// connectFace speaks Connect, gRPC-Web and JSON.
type connectFace struct{}

func (connectFace) answered(ctx context.Context, o handles.Origin) {
	info, ok := connect.CallInfoForHandlerContext(ctx)
	if !ok {
		return
	}
	setOrigin(info.ResponseHeader(), o)
}

func setOrigin(h http.Header, o handles.Origin) {
	h[httpNode] = []string{o.Node}
	h[httpShard] = []string{strconv.FormatUint(uint64(o.Shard), 10)}
	h[httpEpoch] = []string{strconv.FormatUint(o.Epoch, 10)}
}

func (connectFace) fail(ctx context.Context, e *failure.Error) error {
	if info, ok := connect.CallInfoForHandlerContext(ctx); ok {
		info.ResponseHeader()[httpReason] = []string{e.Reason.String()}
	}
	return connectError(e)
}

// connectFailure is connectError with the reason as a header, for errors that
// arise outside of a call.
func connectFailure(e *failure.Error) *connect.Error {
	c := connectError(e)
	c.Meta()[httpReason] = []string{e.Reason.String()}
	return c
}

// connectError returns a failure as Connect wants it. Codes are numbered
// alike, and Connect's HTTP statuses are those of the table of reasons.
func connectError(e *failure.Error) *connect.Error {
	c := connect.NewError(connect.Code(e.Reason.Code()), errors.New(e.Message))
	for _, d := range wire.Details(e) {
		if detail, err := connect.NewErrorDetail(d); err == nil {
			c.AddDetail(detail)
		}
	}
	return c
}
