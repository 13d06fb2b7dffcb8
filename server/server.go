package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/quern-io/quern/handles"
)

// closeGrace is how long connections get to end by themselves once no call is
// under way on them.
const closeGrace = time.Second

// ErrStopped means that a server was stopped before it was started.
var ErrStopped = errors.New("server: stopped")

// Server is a node's network face. Its methods may be called concurrently.
type Server struct {
	cfg      Config
	core     *core
	grains   *grainService
	health   *health
	stopping chan struct{} // closed by the first Stop
	stopped  chan struct{} // closed when it is done

	// handlers are the HTTP handlers that run, framed the connections of
	// frameconn, serving the accept loops.
	handlers, framed, serving sync.WaitGroup

	mu   sync.Mutex
	life struct { // guarded by mu
		started, ended    bool
		grpc              *grpc.Server
		grpcLis           *listener
		http              *http.Server
		grpcAddr, webAddr string
		stopErr           error
		gauges            []string
	}
}

// New returns a server that does nothing yet.
func New(cfg Config) *Server {
	cfg = cfg.withDefaults()
	s := &Server{
		cfg:      cfg,
		stopping: make(chan struct{}),
		stopped:  make(chan struct{}),
	}
	s.core = &core{
		backend: cfg.Backend, log: cfg.Logger, gate: newGate(cfg.MaxInFlight),
		watches: newWatchTable(cfg.MaxWatches, cfg.MaxWatchesPerConn), heartbeat: cfg.Heartbeat,
	}
	s.grains = s.newGrains(newGRPCFace())
	s.health = &health{ready: s.ready, stopping: s.stopping}
	return s
}

// callers returns a maker of callers for one transport.
func (s *Server) callers(transport string, f face) func(*handles.Method) *caller {
	return func(m *handles.Method) *caller {
		return &caller{
			core: s.core, face: f, method: m,
			metrics: newMethodMetrics(s.cfg.Metrics, transport, m.Kind+"."+m.Name),
		}
	}
}

// ready says why the node does not serve, nil where it does.
func (s *Server) ready() error {
	if s.core.gate.closed.Load() {
		return errStopping
	}
	return s.cfg.Backend.Ready() //nolint:wrapcheck // shown as it is
}

// Start opens the listeners and returns when both accept. ctx bounds that
// alone. It fails where the configuration is incomplete, where an address
// cannot be bound (nothing stays open then), where the server was started
// before, and with ErrStopped after Stop.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cfg.validate(); err != nil {
		return err
	}
	switch {
	case s.life.ended:
		return ErrStopped
	case s.life.started:
		return errors.New("server: started twice")
	}
	grpcLis, httpLis, err := s.listen(ctx)
	if err != nil {
		return err
	}
	s.life.started = true
	s.gauge("quern_server_calls_in_flight", func() float64 { return float64(s.core.gate.inFlight.Load()) })
	s.gauge("quern_server_watches", func() float64 { return float64(s.core.watches.count()) })
	if grpcLis != nil {
		s.serveGRPC(ctx, grpcLis)
	}
	if httpLis != nil {
		s.serveHTTP(ctx, httpLis)
	}
	return nil
}

// listen binds what is configured; what is not stays nil.
func (s *Server) listen(ctx context.Context) (grpcLis, httpLis *listener, err error) {
	all := newDescriptors(descriptorLimit())
	if share := all.share(s.cfg.MaxConns); share < int64(s.cfg.MaxConns) {
		s.cfg.Logger.InfoContext(ctx, "connections are bounded by the limit of open files",
			slog.Int64("connections", share), slog.Int64("open_files", descriptorLimit()))
	}
	if s.cfg.Listen != "" {
		if grpcLis, err = listen(ctx, s.cfg.Listen, "gRPC", "--listen", &s.cfg, all); err != nil {
			return nil, nil, err
		}
	}
	if s.cfg.HTTP != "" {
		if httpLis, err = listen(ctx, s.cfg.HTTP, "HTTP", "--http", &s.cfg, all); err != nil {
			if grpcLis != nil {
				_ = grpcLis.Close()
			}
			return nil, nil, err
		}
	}
	return grpcLis, httpLis, nil
}

// serveGRPC needs mu.
func (s *Server) serveGRPC(ctx context.Context, lis *listener) {
	s.life.grpc, s.life.grpcLis, s.life.grpcAddr = s.newGRPC(), lis, lis.Addr().String() //nolint:contextcheck // streams have contexts of their own
	s.countConns("grpc", func() int64 { return lis.open.Load() - lis.framed.Load() })
	s.countConns("frames", lis.framed.Load)
	g := s.life.grpc
	s.serving.Go(func() {
		if err := g.Serve(lis); err != nil {
			s.cfg.Logger.Error("gRPC listener failed", slog.Any("err", err)) //nolint:sloglint // outlives Start's context
		}
	})
	s.cfg.Logger.InfoContext(ctx, "serving gRPC", slog.String("addr", s.life.grpcAddr))
}

// serveHTTP needs mu.
func (s *Server) serveHTTP(ctx context.Context, lis *listener) {
	s.life.http, s.life.webAddr = s.newHTTP(lis.Addr().String()), lis.Addr().String()
	s.countConns("http", lis.open.Load)
	h := s.life.http
	s.serving.Go(func() {
		if err := h.Serve(lis); !errors.Is(err, http.ErrServerClosed) {
			s.cfg.Logger.Error("HTTP listener failed", slog.Any("err", err)) //nolint:sloglint // outlives Start's context
		}
	})
	s.cfg.Logger.InfoContext(ctx, "serving HTTP", slog.String("addr", s.life.webAddr))
}

func (s *Server) countConns(transport string, open func() int64) {
	s.gauge(fmt.Sprintf("quern_server_connections{transport=%q}", transport), func() float64 { return float64(open()) })
}

// gauge registers a gauge until Stop. It needs mu.
func (s *Server) gauge(name string, value func() float64) {
	s.cfg.Metrics.UnregisterMetric(name) // left over from an earlier server on this set
	s.cfg.Metrics.NewGauge(name, value)
	s.life.gauges = append(s.life.gauges, name)
}

// GRPCAddr returns the gRPC listener's address with its real port; empty
// where there is none.
func (s *Server) GRPCAddr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life.grpcAddr
}

// HTTPAddr returns the HTTP listener's address with its real port; empty
// where there is none.
func (s *Server) HTTPAddr() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.life.webAddr
}

// Stop ends the server and waits for all that it started. Calls under way may
// finish until ctx ends; then they are cut off and Stop returns an error that
// wraps ctx's. Later calls wait for the first one and return what it did, or
// fail when their own context ends. A backend that ignores the end of its
// context holds up Stop.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	first := !s.life.ended
	s.life.ended = true
	s.mu.Unlock()
	if first {
		err := s.stop(ctx)
		s.mu.Lock()
		s.life.stopErr = err
		s.mu.Unlock()
		close(s.stopped)
		return err
	}
	select {
	case <-s.stopped:
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.life.stopErr
	case <-ctx.Done():
		return fmt.Errorf("server: wait for another stop: %w", ctx.Err())
	}
}

func (s *Server) stop(ctx context.Context) error {
	s.core.gate.closed.Store(true)
	close(s.stopping)
	s.cfg.Backend.EndWaits()
	s.core.watches.close()
	s.grains.parked.rouse()
	s.mu.Lock()
	g, lis, h, gauges := s.life.grpc, s.life.grpcLis, s.life.http, s.life.gauges
	s.mu.Unlock()
	cut := s.core.gate.drain(ctx)
	s.closeAll(ctx, g, lis, h)
	for _, name := range gauges {
		s.cfg.Metrics.UnregisterMetric(name)
	}
	if cut > 0 {
		s.cfg.Logger.WarnContext(ctx, "stopped with calls under way", slog.Int64("calls", cut))
		return fmt.Errorf("server: stop: %d calls cut off: %w", cut, ctx.Err())
	}
	return nil
}

// closeAll closes both servers: gently while ctx and closeGrace last, then by
// force. It returns when none of their goroutines runs any more.
func (s *Server) closeAll(ctx context.Context, g *grpc.Server, lis *listener, h *http.Server) {
	ctx, cancel := context.WithTimeout(ctx, closeGrace)
	defer cancel()
	var closing sync.WaitGroup
	if g != nil {
		closing.Go(func() { stopGRPC(ctx, g, lis) })
		closing.Go(func() { s.stopFramed(ctx, lis) })
	}
	if h != nil {
		closing.Go(func() {
			if h.Shutdown(ctx) != nil {
				_ = h.Close()
			}
		})
	}
	closing.Wait()
	s.handlers.Wait()
	s.serving.Wait()
}

// stopGRPC ends g gently until ctx does, then by force.
func stopGRPC(ctx context.Context, g *grpc.Server, lis *listener) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		g.GracefulStop()
	}()
	select {
	case <-gone:
	case <-ctx.Done():
		lis.closeConns()
		g.Stop()
		<-gone
	}
}

// stopFramed waits until the streams have ended, each when it has nothing under
// way. Those that have not when ctx ends are cut off.
func (s *Server) stopFramed(ctx context.Context, lis *listener) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		s.framed.Wait()
	}()
	select {
	case <-gone:
	case <-ctx.Done():
		lis.closeConns()
		<-gone
	}
}
