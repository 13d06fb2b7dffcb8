package postgres_test

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern/internal/pgproc"
	"github.com/quern-io/quern/internal/testservice"
	"github.com/quern-io/quern/storage/postgres"
)

// TestCloseGivesTheStoreBack: whoever opens a store that was closed finds it free,
// although the server hears late that the sessions are to end.
func TestCloseGivesTheStoreBack(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	late := lateToEnd(t, server, 700*time.Millisecond)
	for name, lone := range map[string][2]bool{
		"a lone node after a member": {false, true}, "a member after a lone node": {true, false}, "a lone node after another": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			where := schema()
			options := func(url string, lone bool) postgres.Options {
				if o := postgres.Hasty(postgres.Options{URL: url, Lone: lone}); lone {
					return o
				}
				return postgres.Hasty(postgres.Options{URL: url, Cluster: "blue"})
			}
			first := open(t, options(late+"&"+where, lone[0]))
			if err := first.Close(t.Context()); err != nil {
				t.Error(err)
			}
			if err := open(t, options(server.URL(where), lone[1])).Close(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCloseWithoutTheServer: a server that ends no session holds nobody up.
func TestCloseWithoutTheServer(t *testing.T) {
	t.Parallel()
	server := testservice.Postgres(t)
	deaf := lateToEnd(t, server, time.Hour)
	for _, o := range []postgres.Options{{Lone: true}, {Cluster: "blue"}} {
		o.URL = deaf + "&" + schema()
		s := open(t, postgres.Hasty(o))
		began := time.Now()
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if took, most := time.Since(began), 30*time.Second; took > most {
			t.Errorf("Close took %v, at most %v", took, most)
		}
	}
}

// lateToEnd returns a URL by which the server hears that a session is to end only
// after a while.
func lateToEnd(t *testing.T, server *pgproc.Server, late time.Duration) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	p := &latePath{to: server.Socket(), late: late, stop: make(chan struct{})}
	p.running.Go(func() { p.accept(lis) })
	t.Cleanup(func() {
		close(p.stop)
		_ = lis.Close()
		p.running.Wait()
	})
	return "postgres://" + pgproc.Role + "@" + lis.Addr().String() + "/" + pgproc.Role + "?sslmode=disable"
}

// latePath carries connections to a server, but for the client's last word, which
// comes late.
type latePath struct {
	to      string
	late    time.Duration
	stop    chan struct{}
	running sync.WaitGroup
}

func (p *latePath) accept(lis net.Listener) {
	for {
		near, err := lis.Accept()
		if err != nil {
			return
		}
		p.running.Go(func() { p.carry(near.(*net.TCPConn)) }) //nolint:errcheck,forcetypeassert // it is one
	}
}

func (p *latePath) carry(near *net.TCPConn) {
	defer near.Close()
	conn, err := net.Dial("unix", p.to) //nolint:noctx // it is there or not
	if err != nil {
		return
	}
	far := conn.(*net.UnixConn) //nolint:errcheck,forcetypeassert // it is one
	defer far.Close()
	p.running.Go(func() {
		_, _ = io.Copy(near, far)
		_ = near.CloseWrite()
	})
	last, buffer := []byte("X\x00\x00\x00\x04"), make([]byte, 64<<10)
	for {
		n, err := near.Read(buffer)
		if err != nil || bytes.HasPrefix(buffer[:n], last) {
			p.wait()
		}
		if _, failed := far.Write(buffer[:n]); err != nil || failed != nil {
			return
		}
	}
}

func (p *latePath) wait() {
	timer := time.NewTimer(p.late)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.stop:
	}
}
