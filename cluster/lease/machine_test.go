package lease_test

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/quern-io/quern/cluster/lease"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg lease.Config
		ok  bool
	}{
		"defaults":          {lease.Config{Shards: 256, Incarnation: "a"}, true},
		"longest":           {lease.Config{Shards: 1, Incarnation: "a", Delay: time.Minute, Margin: 29 * time.Second}, true},
		"no shards":         {lease.Config{Incarnation: "a"}, false},
		"odd shards":        {lease.Config{Shards: 3, Incarnation: "a"}, false},
		"no incarnation":    {lease.Config{Shards: 1}, false},
		"short delay":       {lease.Config{Shards: 1, Incarnation: "a", Delay: time.Second - 1}, false},
		"long delay":        {lease.Config{Shards: 1, Incarnation: "a", Delay: time.Minute + 1}, false},
		"large margin":      {lease.Config{Shards: 1, Incarnation: "a", Margin: time.Second}, false},
		"negative margin":   {lease.Config{Shards: 1, Incarnation: "a", Margin: -1}, false},
		"rare proofs":       {lease.Config{Shards: 1, Incarnation: "a", ProveEvery: time.Second + 1}, false},
		"negative interval": {lease.Config{Shards: 1, Incarnation: "a", Retry: -1}, false},
	} {
		if m, err := lease.New(c.cfg); (err == nil) != c.ok || !c.ok && (!errors.Is(err, lease.ErrConfig) || m != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// owner returns a machine that serves all of its shards since 2 s.
func owner(t *testing.T, shards uint32) *lease.Machine {
	t.Helper()
	m, err := lease.New(lease.Config{Shards: shards, Incarnation: "a"})
	if err != nil {
		t.Fatal(err)
	}
	r := lease.Reading{Index: 9, Locks: make([]lease.Lock, shards)}
	m.SessionBegan(0, "s")
	for shard := range shards {
		r.Locks[shard] = lease.Lock{Index: 9}
		m.Want(0, shard, true)
	}
	m.Read(0, r)
	for _, a := range m.Clock(2 * time.Second) {
		a, ok := a.(lease.Acquire)
		if !ok {
			t.Fatalf("decided %T", a)
		}
		m.Acquired(2*time.Second, a, lease.Done, 10)
		r.Locks[a.Shard] = lease.Lock{Index: 10, Session: "s", Value: a.Value}
	}
	r.Index = 10
	for _, raise := range m.Read(2*time.Second, r) {
		raise, ok := raise.(lease.Raise)
		if !ok {
			t.Fatalf("decided %T", raise)
		}
		m.Raised(2*time.Second, raise, lease.Done, 0)
	}
	for shard := range shards {
		if epoch, ok := m.Serves(shard, 2*time.Second); !ok || epoch != 1 {
			t.Fatalf("shard %d is not served", shard)
		}
	}
	return m
}

// find returns the one decision of type D.
func find[D lease.Decision](t *testing.T, decisions []lease.Decision) D {
	t.Helper()
	var found []D
	for _, d := range decisions {
		if d, ok := d.(D); ok {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d of %+v are %T", len(found), decisions, *new(D))
	}
	return found[0]
}

// TestProofIsPerShard: what a proof does not find is lost, and what it finds is
// proven, also when it comes in parts.
func TestProofIsPerShard(t *testing.T) {
	t.Parallel()
	const second = time.Second
	m := owner(t, 4)
	p := find[lease.Prove](t, m.Clock(3*second))
	if len(p.Holds) != 4 || p.By != 3800*time.Millisecond {
		t.Fatalf("asked %+v", p)
	}
	first, rest := p, p
	first.Holds, rest.Holds = p.Holds[:2], p.Holds[2:]
	got := m.Proved(3500*time.Millisecond, first, []uint32{1})
	if stop := find[lease.Stop](t, got); stop.Shard != 1 || stop.Why != lease.NotHeld {
		t.Errorf("stopped %+v", stop)
	}
	if more := find[lease.Extend](t, got); !slices.Equal(more.Shards, []uint32{0}) || more.Until != 4800*time.Millisecond {
		t.Errorf("extended %+v", more)
	}
	for shard, want := range []bool{true, false, false, false} {
		if _, ok := m.Serves(uint32(shard), 4*second); ok != want {
			t.Errorf("at 4 s shard %d: %t", shard, ok)
		}
	}
	// The other part comes too late: trust has run out.
	if got := m.Proved(4*second, rest, nil); len(got) != 3 {
		t.Errorf("decided %+v", got)
	}
	for shard := range uint32(4) {
		if _, ok := m.Serves(shard, 4*second); ok != (shard == 0) {
			t.Errorf("after the second part shard %d: %t", shard, ok)
		}
	}
}

// TestAnswersOfAnEarlierHold: a proof says nothing of an acquisition that is
// later than its question.
func TestAnswersOfAnEarlierHold(t *testing.T) {
	t.Parallel()
	const second = time.Second
	m := owner(t, 1)
	p := find[lease.Prove](t, m.Clock(3*second))
	release := find[lease.Release](t, m.GiveUp(3*second, 0, lease.Clean{}))
	m.Released(3*second, release)
	m.Read(3*second, lease.Reading{Index: 11, Locks: []lease.Lock{{Index: 11, Value: release.Value}}})
	a := find[lease.Acquire](t, m.Clock(5*second))
	m.Acquired(5*second, a, lease.Done, 12)
	if got := m.Proved(5*second, p, []uint32{0}); len(got) != 0 {
		t.Errorf("decided %+v", got)
	}
	m.Acquired(5*second, a, lease.Unclear, 0)
	raise := find[lease.Raise](t, m.Read(5*second, lease.Reading{Index: 12, Locks: []lease.Lock{{Index: 12, Session: "s", Value: a.Value}}}))
	m.Raised(5*second, raise, lease.Done, 0)
	m.Raised(5*second, raise, lease.Refused, 99)
	if epoch, ok := m.Serves(0, 5*second); !ok || epoch != 2 {
		t.Errorf("serves %d, %t", epoch, ok)
	}
	if m.Highest(0) != 2 {
		t.Errorf("knows %d", m.Highest(0))
	}
}

// TestTimeDoesNotGoBack: an event with an earlier time counts as one of now.
func TestTimeDoesNotGoBack(t *testing.T) {
	t.Parallel()
	m := owner(t, 1)
	m.Clock(4 * time.Second)
	if _, ok := m.Serves(0, 3*time.Second); ok {
		t.Error("trust came back with an earlier time")
	}
	m.Clock(time.Second)
	if wake := m.Wake(); wake < 4*time.Second {
		t.Errorf("wakes at %v", wake)
	}
}

func TestWakeOfAnIdleMachine(t *testing.T) {
	t.Parallel()
	m, err := lease.New(lease.Config{Shards: 8, Incarnation: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if wake := m.Wake(); wake != math.MaxInt64 {
		t.Errorf("wakes at %v", wake)
	}
	// What cannot be is passed over.
	m.Read(0, lease.Reading{Index: 1, Locks: make([]lease.Lock, 2)})
	m.Heard(0, 8, 1)
	m.Heard(0, 1, lease.MaxEpoch+1)
	m.Offered(0, lease.Offer{Shard: 1 << 31})
	if m.Highest(1) != 0 {
		t.Errorf("knows %d", m.Highest(1))
	}
	if wake := m.Wake(); wake != math.MaxInt64 {
		t.Errorf("wakes at %v", wake)
	}
}

func TestLoads(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		inherit lease.Inherit
		written uint64
		want    bool
	}{
		{lease.Inherit{Replaces: 7, Known: 7}, 7, true},
		{lease.Inherit{Replaces: 7, Known: 7}, 6, false},
		{lease.Inherit{Replaces: 7, Known: 7}, 8, false},
		{lease.Inherit{Replaces: 7, Known: 9}, 7, false},
		{lease.Inherit{}, 7, true},
		{lease.Inherit{Known: 7}, 7, true},
		{lease.Inherit{Known: 8}, 7, false},
	} {
		if got := c.inherit.Loads(c.written); got != c.want {
			t.Errorf("%+v loads %d: %t", c.inherit, c.written, got)
		}
	}
}

// BenchmarkProof measures what a proof of 4,096 shards costs.
func BenchmarkProof(b *testing.B) {
	const shards = 4096
	m, err := lease.New(lease.Config{Shards: shards, Incarnation: "a"})
	if err != nil {
		b.Fatal(err)
	}
	r := lease.Reading{Index: 9, Locks: make([]lease.Lock, shards)}
	m.SessionBegan(0, "s")
	for shard := range uint32(shards) {
		r.Locks[shard] = lease.Lock{Index: 9}
		m.Want(0, shard, true)
	}
	m.Read(0, r)
	now := 2 * time.Second
	for _, d := range m.Clock(now) {
		if a, ok := d.(lease.Acquire); ok {
			m.Acquired(now, a, lease.Done, 10)
		}
	}
	for b.Loop() {
		now += 500 * time.Millisecond
		for _, d := range m.Clock(now) {
			if p, ok := d.(lease.Prove); ok {
				m.Proved(now, p, nil)
			}
		}
	}
}
