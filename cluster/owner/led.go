package owner

import (
	"context"
	"errors"

	"github.com/quern-io/quern/cluster"
)

// led watches whether the authority has a leader. A read that waits for news
// may have been passed on to a server that leads no more, of which nobody would
// tell it until its wait is over. So when calls get answers again after one got
// none, both watches begin anew.
func (o *Owner) led(call string, err error) {
	switch call {
	case "join", "keep_alive", "announce":
		return // the agent of this machine may answer by itself
	}
	switch {
	case errors.Is(err, cluster.ErrUnreachable), errors.Is(err, context.DeadlineExceeded):
		if !o.silent.Swap(true) {
			nudge(o.membersNow) // whose answer, or none, shows how it goes on
		}
	case err == nil && o.silent.Swap(false):
		nudge(o.tableNow)
		nudge(o.membersNow)
	}
}

// nudge puts something into a channel of one place, where there is nothing yet.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
