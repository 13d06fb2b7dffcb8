package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	"github.com/quern-io/quern/internal/job"
)

// watched is a program that runs under a lease.
//
//	… last renewal that succeeded begins …………………………… SIGTERM …… Until ………… the lock can be another's
//	│                                                    │ grace  │   margin     │
//	0                                             Until−grace   SIGKILL         ttl
//
// SIGTERM goes out when no renewal has succeeded so late that grace would not
// be left, and SIGKILL at the latest when the lease stops being trusted, which
// is a margin before its end: the kernel has that to carry it out.
//
// Where the node says that the lock was taken away there is no such time: it is
// SIGTERM at once, and SIGKILL after hurry.
type watched struct {
	job          *job.Job
	lease        *handles.Lease
	grace, hurry time.Duration
	stderr       io.Writer

	ending bool // the program was asked to end
	why    error
	kill   <-chan time.Time
}

var errOutOfTime = errors.New("the lease could not be renewed in time")

// run returns when all of the job has ended: whether it had the lock for as long
// as it wanted. It says why not only then, since a reader of stderr that stands
// still must not hold up the kill.
func (w *watched) run(signals <-chan os.Signal) bool {
	kept := w.watch(signals)
	if w.why != nil {
		fmt.Fprintf(w.stderr, "quern: lost: the program was ended: %v\n", w.why)
	}
	return kept
}

func (w *watched) watch(signals <-chan os.Signal) bool {
	low := time.NewTimer(w.left())
	defer low.Stop()
	lost := w.lease.Lost()
	for {
		select {
		case <-w.job.Ended():
			return !w.ending
		case s := <-signals:
			w.job.Pass(s)
		case <-w.job.Stopped():
			w.job.Suspend()
			w.goOn(w.job.Resume)
		case <-w.job.Asked():
			// Who ends has no time to stop.
			if !w.ending && w.job.Stop() {
				w.goOn(w.job.Continue)
			}
		case <-low.C:
			if left := w.left(); left > 0 {
				low.Reset(left)
				continue
			}
			w.end(errOutOfTime, time.Until(w.lease.Until()))
		case <-lost:
			lost = nil
			w.lost()
		case <-w.kill:
			w.job.Kill()
		}
	}
}

// left is the time until the program must be asked to end.
func (w *watched) left() time.Duration { return time.Until(w.lease.Until()) - w.grace }

// lost ends the job when the lease is no longer trusted.
func (w *watched) lost() {
	err := w.lease.Err()
	switch {
	case w.ending:
		w.job.Kill()
	case errors.Is(err, failure.NotHolder):
		w.end(fmt.Errorf("the lock was taken away: %w", err), w.hurry)
	case errors.Is(err, failure.FencedToken):
		w.end(fmt.Errorf("the guard is refused: %w", err), w.hurry)
	default: // nothing is left of the time that grace is a part of
		w.end(errOutOfTime, 0)
	}
}

// end asks the job to end, and kills it after a while; at once where there is
// none, and then a job that is stopped does not go on before.
func (w *watched) end(why error, after time.Duration) {
	if w.ending {
		return
	}
	w.ending, w.why, w.kill = true, why, time.NewTimer(after).C
	if after > 0 {
		w.job.Terminate()
	} else {
		w.job.Kill()
	}
}

// goOn follows a time in which this process was perhaps stopped. Nothing renewed
// the lease meanwhile: the program goes on only if it is still trusted, and is
// killed otherwise, whoever has the lock now.
func (w *watched) goOn(resume func()) {
	if time.Now().Before(w.lease.Until()) {
		resume()
		return
	}
	w.end(errOutOfTime, 0)
	w.job.Kill() // also where it was asked to end before
}
