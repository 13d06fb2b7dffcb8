package server

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frameconn"
	"github.com/quern-io/quern/internal/wire"
)

// sniffer stands where gRPC would begin TLS, with a goroutine and a deadline
// for each connection: it takes away those that begin with frameconn's preface.
type sniffer struct {
	credentials.TransportCredentials

	take func(*conn)
}

func newSniffer(take func(*conn)) *sniffer {
	return &sniffer{TransportCredentials: insecure.NewCredentials(), take: take}
}

// ServerHandshake implements credentials.TransportCredentials. An error other
// than io.EOF would be logged by gRPC, for each stranger that says nothing.
func (s *sniffer) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, ok := raw.(*conn)
	if !ok {
		return s.TransportCredentials.ServerHandshake(raw) //nolint:wrapcheck // stands in for it
	}
	var first [1]byte
	if _, err := c.tcp.Read(first[:]); err != nil {
		return nil, nil, io.EOF
	}
	if first[0] != frameconn.First {
		c.peeked = first[:]
		return s.TransportCredentials.ServerHandshake(raw) //nolint:wrapcheck // stands in for it
	}
	if frameconn.ReadPreface(c.tcp) != nil || c.tcp.SetDeadline(time.Time{}) != nil {
		return nil, nil, io.EOF
	}
	c.taken.Store(true)
	s.take(c)
	return nil, nil, credentials.ErrConnDispatched
}

// Clone implements credentials.TransportCredentials.
func (s *sniffer) Clone() credentials.TransportCredentials { return s }

// takenConn is a connection whose deadlines and end are the stream's.
type takenConn struct {
	*net.TCPConn

	counted *conn
}

// Close implements net.Conn.
func (c takenConn) Close() error { return c.counted.Close() }

// takeConn serves the stream of a connection, in a goroutine of its own.
func (s *Server) takeConn(c *conn) {
	s.mu.Lock()
	ended := s.life.ended
	if !ended {
		s.framed.Add(1) // before Stop waits for them
	}
	s.mu.Unlock()
	if ended {
		if f := s.answerConn(c); f != nil {
			f.End(errStopping)
		}
		return
	}
	go func() {
		defer s.framed.Done()
		s.serveConn(c)
	}()
}

// answerConn returns nil where the client has left already.
func (s *Server) answerConn(c *conn) *frameconn.Conn {
	f, err := frameconn.Answer(takenConn{c.tcp, c}, frameconn.Config{
		MaxFrame: s.cfg.MaxMessageBytes, WriteTimeout: s.cfg.WriteTimeout, KeepAlive: s.cfg.KeepAlive,
	})
	if err != nil {
		return nil
	}
	return f
}

// serveConn serves the stream of a connection. What panics beneath it ends that
// one alone.
func (s *Server) serveConn(c *conn) {
	c.of.framed.Add(1)
	defer c.of.framed.Add(-1)
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Logger.Error("panic in a stream", slog.Any("err", p), slog.String("stack", string(debug.Stack())))
			_ = c.Close()
		}
	}()
	f := s.answerConn(c)
	if f == nil {
		return
	}
	err := error(errCutOff)
	defer func() { f.End(endOf(err)) }() // also where a handler ends this goroutine
	err = s.grains.serve(f)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.cfg.Logger.Info("cut off a client that does not read", slog.String("peer", c.RemoteAddr().String()))
	}
}

// endOf is what a client is told of the end of its stream; nil is nothing.
func endOf(err error) *failure.Error {
	if e, ok := errors.AsType[*failure.Error](err); ok {
		return e
	}
	if st, ok := status.FromError(err); ok {
		e, _ := wire.FromStatus(st)
		return e
	}
	return nil
}
