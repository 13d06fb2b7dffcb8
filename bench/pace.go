package bench

import (
	"runtime"
	"time"
)

// A timer of an idle Go program fires up to a millisecond late, which would
// show as latency, a sleep of the operating system some 80 µs late. So a wait
// begins with a timer, goes on with short sleeps and ends with yielding.
const (
	timerSlack = 2 * time.Millisecond
	sleepSlack = 100 * time.Microsecond
)

// pause returns after d or when stop is closed.
func pause(d time.Duration, stop <-chan struct{}) {
	end := time.Now().Add(d)
	if d > timerSlack {
		t := time.NewTimer(d - timerSlack)
		defer t.Stop()
		select {
		case <-t.C:
		case <-stop:
			return
		}
	}
	for {
		switch left := time.Until(end); {
		case left <= 0:
			return
		case left > sleepSlack:
			sleep(left - sleepSlack)
		default:
			runtime.Gosched()
		}
	}
}
