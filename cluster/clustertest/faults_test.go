package clustertest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/clustertest"
)

// rig is a twin with two members, in a bubble.
type rig struct {
	*testing.T

	twin   *clustertest.Twin
	a, b   *clustertest.Client
	as, bs cluster.Session
}

// inBubble runs a test with members whose checks last for a minute and whose
// locks are left alone for 2 s, and with one lock that a holds.
func inBubble(t *testing.T, run func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, twin: clustertest.New()}
		r.a, r.b = r.twin.Connect("c", time.Minute), r.twin.Connect("c", time.Minute)
		r.as, r.bs = r.join(r.a, "a"), r.join(r.b, "b")
		if _, err := r.a.Create(t.Context(), []cluster.LockWrite{{Shard: 1}}); err != nil {
			t.Fatal(err)
		}
		r.want(cluster.Done, r.acquire(r.a, r.as))
		run(r)
	})
}

func (r *rig) join(c *clustertest.Client, name string) cluster.Session {
	r.Helper()
	s, err := c.Join(r.Context(), cluster.Member{Name: name, Incarnation: cluster.NewIncarnation()}, 2*time.Second)
	if err != nil {
		r.Fatal(err)
	}
	return s
}

// lock reads lock 1, without a request that could fail.
func (r *rig) lock() cluster.ShardLock {
	r.Helper()
	table, err := r.twin.Connect("c", 0).Table(r.Context(), cluster.Watch{})
	if err != nil {
		r.Fatal(err)
	}
	lock, _ := table.Lock(1)
	return lock
}

// acquire takes lock 1 as it is now; the error is in the verdict.
func (r *rig) acquire(c *clustertest.Client, s cluster.Session) cluster.Verdict {
	r.Helper()
	results, _ := c.Acquire(r.Context(), s, []cluster.LockWrite{{Shard: 1, Index: r.lock().Index}})
	return results[0].Verdict
}

func (r *rig) prove(c *clustertest.Client, s cluster.Session) cluster.Verdict {
	r.Helper()
	results, _ := c.Prove(r.Context(), s, []uint32{1})
	return results[0].Verdict
}

func (r *rig) want(want, got cluster.Verdict) {
	r.Helper()
	if got != want {
		r.Errorf("the verdict is %v, want %v", got, want)
	}
}

func (r *rig) wantErr(want, got error) {
	r.Helper()
	if !errors.Is(got, want) {
		r.Errorf("%v, want %v", got, want)
	}
}

func sleep(d time.Duration) {
	time.Sleep(d) //nolint:forbidigo // in a bubble
}

// TestLateWrite: a write that was given up while the server hung is carried
// out when it goes on, and then finds its guard.
func TestLateWrite(t *testing.T) {
	t.Parallel()
	inBubble(t, func(r *rig) {
		before := r.lock()
		late := func(epoch uint64) {
			r.Helper()
			ctx, cancel := context.WithTimeout(r.Context(), time.Second)
			defer cancel()
			began := time.Now()
			results, err := r.a.Acquire(ctx, r.as, []cluster.LockWrite{{Shard: 1, Index: before.Index, Value: cluster.LockValue{Epoch: epoch}}})
			r.wantErr(cluster.ErrUnreachable, err)
			r.wantErr(context.DeadlineExceeded, err)
			r.want(cluster.Unknown, results[0].Verdict)
			if took := time.Since(began); took != time.Second {
				r.Errorf("given up after %v", took)
			}
		}
		r.twin.Stall()
		late(5)
		late(6) // under the same index
		r.twin.Resume()
		if after := r.lock(); after.Value.Epoch != 5 || after.Index <= before.Index {
			r.Errorf("after the late writes: %+v, before %+v", after, before)
		}
	})
}

// TestStallLasts: while the server hangs, sessions run out all the same.
func TestStallLasts(t *testing.T) {
	t.Parallel()
	inBubble(t, func(r *rig) {
		r.twin.Stall()
		sleep(2*cluster.SessionTTL + time.Second)
		r.twin.Resume()
		if lock := r.lock(); lock.Holder != "" {
			r.Errorf("the lock is %+v", lock)
		}
		// The delay counts from the session's end, a second ago.
		s := r.join(r.b, "b")
		r.want(cluster.Delayed, r.acquire(r.b, s))
		sleep(time.Second)
		r.want(cluster.Done, r.acquire(r.b, s))
	})
}

func TestFaultsOfAClient(t *testing.T) {
	t.Parallel()
	inBubble(t, func(r *rig) {
		r.a.Cut()
		_, err := r.a.Prove(r.Context(), r.as, []uint32{1})
		r.wantErr(cluster.ErrUnreachable, err)
		r.want(cluster.Unknown, r.prove(r.a, r.as))
		r.want(cluster.Gone, r.prove(r.b, r.bs))
		r.a.Deny()
		_, err = r.a.Prove(r.Context(), r.as, []uint32{1})
		r.wantErr(cluster.ErrDenied, err)
		r.want(cluster.Refused, r.prove(r.a, r.as))
		r.a.Heal()
		r.want(cluster.Done, r.prove(r.a, r.as))

		r.a.Stall()
		began := time.Now()
		r.want(cluster.Unknown, r.prove(r.a, r.as))
		if took := time.Since(began); took != 5*time.Second {
			r.Errorf("an unbounded call took %v", took)
		}
		r.a.Resume()

		r.a.LoseReplies(1)
		release := []cluster.LockWrite{{Shard: 1, Index: r.lock().Index}}
		results, err := r.a.Release(r.Context(), r.as, release)
		r.wantErr(cluster.ErrUnreachable, err)
		r.want(cluster.Unknown, results[0].Verdict)
		if lock := r.lock(); lock.Holder != "" {
			r.Errorf("the lost reply's release was not carried out: %+v", lock)
		}
		r.want(cluster.Done, r.acquire(r.b, r.bs))
	})
}

// TestRestartOfTheServer: a stop that is shorter than the checks costs nothing
// but answers; one that is longer ends all sessions at once, and the delays
// count from there.
func TestRestartOfTheServer(t *testing.T) {
	t.Parallel()
	inBubble(t, func(r *rig) {
		watched := make(chan error)
		go func() {
			table, _ := r.b.Table(r.Context(), cluster.Watch{})
			_, err := r.b.Table(r.Context(), cluster.Watch{Index: table.Index, Wait: cluster.MaxWait})
			watched <- err
		}()
		synctest.Wait()
		r.twin.Stop()
		r.wantErr(cluster.ErrUnreachable, <-watched)
		r.want(cluster.Unknown, r.prove(r.a, r.as))
		sleep(30 * time.Second)
		r.twin.Start()
		r.want(cluster.Done, r.prove(r.a, r.as))

		r.twin.Stop()
		sleep(time.Hour)
		r.twin.Start()
		r.want(cluster.Gone, r.prove(r.a, r.as))
		if err := r.a.KeepAlive(r.Context(), r.as); err != nil {
			r.wantErr(cluster.ErrSessionLost, err)
		}
		s := r.join(r.b, "b")
		r.want(cluster.Delayed, r.acquire(r.b, s))
		sleep(2 * time.Second)
		r.want(cluster.Done, r.acquire(r.b, s))
	})
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	inBubble(t, func(r *rig) {
		before, err := r.a.Table(r.Context(), cluster.Watch{})
		if err != nil {
			r.Fatal(err)
		}
		watched := make(chan cluster.Table)
		go func() {
			table, err := r.a.Table(r.Context(), cluster.Watch{Index: before.Index, Wait: cluster.MaxWait})
			if err != nil {
				r.Error(err)
			}
			watched <- table
		}()
		synctest.Wait()
		r.twin.Empty()
		if table := <-watched; !table.Fell || len(table.Locks) != 0 {
			r.Errorf("the table is %+v", table)
		}
		r.wantErr(cluster.ErrSessionLost, r.a.KeepAlive(r.Context(), r.as))
		members, err := r.a.Members(r.Context(), cluster.Watch{})
		if err != nil || len(members.List) != 0 {
			r.Errorf("members are %+v, %v", members, err)
		}
	})
}

// TestSessionWithoutRenewal ends after two TTLs, though its check passes.
func TestSessionWithoutRenewal(t *testing.T) {
	t.Parallel()
	inBubble(t, func(r *rig) {
		other := r.join(r.a, "a")
		for range 39 { // the other session is renewed, not this one
			sleep(500 * time.Millisecond)
			if err := r.a.KeepAlive(r.Context(), other); err != nil {
				r.Fatal(err)
			}
		}
		r.want(cluster.Done, r.prove(r.a, r.as))
		sleep(500 * time.Millisecond)
		r.want(cluster.Gone, r.prove(r.a, r.as))
	})
}

// TestRequestsAreCounted, and take as long as they are told to.
func TestRequestsAreCounted(t *testing.T) {
	t.Parallel()
	inBubble(t, func(r *rig) {
		r.twin.Latency = 10 * time.Millisecond
		shards := make([]uint32, 86)
		for i := range shards {
			shards[i] = uint32(i)
		}
		before, began := r.twin.Requests(), time.Now()
		if _, err := r.a.Prove(r.Context(), r.as, shards); err != nil {
			r.Fatal(err)
		}
		if n, took := r.twin.Requests()-before, time.Since(began); n != 2 || took != 20*time.Millisecond {
			r.Errorf("%d requests in %v", n, took)
		}
		table, err := r.b.Table(r.Context(), cluster.Watch{})
		if err != nil {
			r.Fatal(err)
		}
		before = r.twin.Requests()
		if _, err := r.b.Table(r.Context(), cluster.Watch{Index: table.Index, Wait: time.Minute}); err != nil {
			r.Fatal(err)
		}
		if n := r.twin.Requests() - before; n != 1 {
			r.Errorf("a watch is %d requests", n)
		}
	})
}
