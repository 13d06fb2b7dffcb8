package frameconn_test

import (
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/internal/frameconn"
)

// slowLink is one on which 8 KiB come every 10 ms.
type slowLink struct{ net.Conn }

func (l slowLink) Read(p []byte) (int, error) {
	time.Sleep(10 * time.Millisecond) //nolint:forbidigo // in a bubble
	return l.Conn.Read(p[:min(len(p), 8<<10)])
}

// TestSlowClientIsNotSilent: who takes large frames for longer than a client may
// be silent is not pinged before it has them: a chunk takes 80 ms, a frame more
// than a second.
func TestSlowClientIsNotSilent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, slowClient)
}

func slowClient(t *testing.T) {
	t.Helper()
	a, b := net.Pipe()
	near, far := begin(t, slowLink{a}, b, frameconn.Config{MaxFrame: maxFrame, WriteTimeout: time.Second, KeepAlive: 300 * time.Millisecond})
	const frames = 3
	go func() {
		for range frames {
			if err := far.Send(make([]byte, maxFrame)); err != nil {
				t.Error(err)
			}
		}
	}()
	read := make(chan int, 1)
	go func() {
		n := 0
		for ; ; n++ {
			if _, err := near.Recv(); err != nil { // answers pings
				read <- n
				return
			}
		}
	}()
	// After all frames, and some pings.
	lasts := time.AfterFunc(10*time.Second, func() { _ = near.Send([]byte("x")) })
	defer lasts.Stop()
	if got, err := far.Recv(); string(got) != "x" || err != nil {
		t.Errorf("a client that reads slowly: %q, %v", got, err)
	}
	near.Close()
	if n := <-read; n != frames {
		t.Errorf("%d frames of %d have arrived", n, frames)
	}
}

// TestPingThatWaitsIsNotLate: the time for its answer begins when a ping was
// written, however long that took.
func TestPingThatWaitsIsNotLate(t *testing.T) {
	t.Parallel()
	a, b := net.Pipe()
	const keepAlive = 500 * time.Millisecond
	near, far := begin(t, a, b, frameconn.Config{MaxFrame: maxFrame, KeepAlive: keepAlive})
	waits := time.NewTimer(time.Hour)
	defer waits.Stop()
	pinged := make(chan struct{})
	once := sync.OnceFunc(func() {
		waits.Reset(keepAlive * 5 / 4)
		<-waits.C
		close(pinged)
	})
	far.OnIdle(once) // just before the ping
	ended := make(chan error, 1)
	go func() {
		<-pinged
		_, err := near.Recv() // takes the ping, and answers
		ended <- err
	}()
	go func() {
		<-pinged
		_ = near.Send([]byte("x")) // Recv hears of what is wrong
	}()
	if got, err := far.Recv(); string(got) != "x" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	near.Close()
	if err := <-ended; err == nil {
		t.Error("a closed stream goes on")
	}
}
