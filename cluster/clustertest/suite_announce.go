package clustertest

import (
	"slices"
	"time"

	"github.com/quern-io/quern/cluster"
)

// testAnnounce changes what a member says of itself, again and again, for
// longer than its check lasts by itself: it passes all the time, and its
// session and locks are what they were.
func testAnnounce(f *fixture) {
	n, other := f.joinWith("a", shortCheck, delay), f.join("b")
	n.holds(1, 2)
	f.eventually("it passes", func() bool { return slices.Contains(f.passing(other), "a") })
	stop := make(chan struct{})
	gaps := make(chan bool, 1)
	f.watchPassing(other, "a", stop, gaps)
	states := []cluster.State{cluster.Draining, cluster.Cordoned, cluster.Ready}
	for i := range 9 {
		state := states[i%len(states)]
		if err := n.Announce(f.ctx(), n.session, state); err != nil {
			f.Fatalf("announce %s: %v", state, err)
		}
		n.self.State, n.self.Passing = state, true
		f.eventually("the others see it", func() bool {
			members, err := other.Members(f.ctx(), cluster.Watch{})
			if err != nil {
				f.Fatalf("members: %v", err)
			}
			return slices.Contains(members.List, n.self)
		})
		n.prove(cluster.Done, 1, 2)
		if i%3 == 2 {
			timer := time.NewTimer(shortCheck / 2)
			<-timer.C
		}
	}
	close(stop)
	if <-gaps {
		f.Error("it did not pass for a while")
	}
	n.acquire(cluster.Done, 1)
	if err := n.KeepAlive(f.ctx(), n.session); err != nil {
		f.Errorf("keep alive: %v", err)
	}
	if err := n.Leave(f.ctx(), n.session); err != nil {
		f.Fatalf("leave: %v", err)
	}
	f.wantErr("announce after leave", n.Announce(f.ctx(), n.session, cluster.Ready), cluster.ErrSessionLost)
	f.wantErr("announce without a session", other.Announce(f.ctx(), "", cluster.Ready), cluster.ErrSessionLost)
	if slices.Contains(f.passing(other), "a") {
		f.Error("announcing has brought it back")
	}
}

// watchPassing looks whether a member passes all the time, until stop.
func (f *fixture) watchPassing(a cluster.Authority, name string, stop <-chan struct{}, gaps chan<- bool) {
	ctx := f.ctx()
	go func() {
		gap := false
		for index := uint64(0); ; {
			members, err := a.Members(ctx, cluster.Watch{Index: index, Wait: shortCheck / 20})
			index = members.Index
			gap = gap || err == nil && !slices.Contains(passing(members), name)
			select {
			case <-stop:
				gaps <- gap
				return
			default:
			}
		}
	}()
}
