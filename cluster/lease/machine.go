package lease

import (
	"errors"
	"fmt"
	"time"

	"github.com/quern-io/quern/keyspace"
)

// Bounds of [Config.Delay].
const (
	MinDelay = time.Second
	MaxDelay = time.Minute
)

// MaxEpoch is the highest epoch: fencing tokens hold it in their upper half. It
// is never reached, since epochs begin with seconds and rise by one.
const MaxEpoch = 1<<32 - 1

// Config is what a machine is told at its start. All nodes of a cluster have
// the same Delay; the others may differ.
type Config struct {
	// Shards is the number of shards.
	Shards uint32
	// Incarnation is this life of this node.
	Incarnation string
	// Delay is how long a lock is free before somebody else serves its
	// shard: MinDelay to MaxDelay, 2 s where it is zero.
	Delay time.Duration
	// Margin is by how much trust ends sooner than Delay after a proof, for
	// clocks that do not run at one rate. Below half of Delay; a tenth of it
	// where it is zero.
	Margin time.Duration
	// ProveEvery is how often locks are proven; a quarter of Delay where it
	// is zero.
	ProveEvery time.Duration
	// Retry is the pause before what failed is tried again; a twentieth of
	// Delay where it is zero.
	Retry time.Duration
}

func (c *Config) validate() error {
	or := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	or(&c.Delay, 2*time.Second)
	or(&c.Margin, c.Delay/10)
	or(&c.ProveEvery, c.Delay/4)
	or(&c.Retry, c.Delay/20)
	switch {
	case !keyspace.ValidShards(c.Shards):
		return fmt.Errorf("lease: %d shards: %w", c.Shards, ErrConfig)
	case c.Incarnation == "":
		return fmt.Errorf("lease: no incarnation: %w", ErrConfig)
	case c.Delay < MinDelay || c.Delay > MaxDelay:
		return fmt.Errorf("lease: a delay of %v is not between %v and %v: %w", c.Delay, MinDelay, MaxDelay, ErrConfig)
	case c.Margin < 0 || c.Margin >= c.Delay/2:
		return fmt.Errorf("lease: a margin of %v at a delay of %v: %w", c.Margin, c.Delay, ErrConfig)
	case c.ProveEvery < 0 || c.ProveEvery > c.Delay/2 || c.Retry < 0:
		return fmt.Errorf("lease: a proof every %v, a retry after %v: %w", c.ProveEvery, c.Retry, ErrConfig)
	}
	return nil
}

// ErrConfig says that a machine was configured with what it cannot work with.
var ErrConfig = errors.New("bad configuration")

// Machine decides when one node acquires, serves and gives up shards. It is not
// safe for concurrent use. The first argument of every event is the time at
// which it came in, by CLOCK_BOOTTIME; time does not go back.
type Machine struct {
	cfg  Config
	omit omit

	now time.Duration
	// session is the node's, "" while it has none.
	session string
	// cluster is the id of the cluster's record, and base its epoch.
	cluster string
	base    uint64
	// index and readAt are of the last reading that counted, and read says
	// whether there was one.
	read   bool
	index  uint64
	readAt time.Duration
	// proofDue is when the next proof starts.
	proofDue time.Duration
	// serial numbers attempts and grips, so that what comes back late is
	// known for what it is.
	serial uint64
	states []state
	// out are the decisions on the event that is being taken.
	out []Decision
}

// omit switches rules off. Only tests do, to see that they notice.
type omit struct {
	// wait is the taker's count.
	wait bool
	// gap is what follows when trust ran out.
	gap bool
	// start is that trust counts from the start of a proof.
	start bool
	// store is that an epoch which the store refused is not served.
	store bool
}

// New returns a machine that has no session, has read nothing and wants no
// shard. It returns [ErrConfig].
func New(cfg Config) (*Machine, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	m := &Machine{cfg: cfg, states: make([]state, cfg.Shards)}
	for i := range m.states {
		m.states[i].shard = uint32(i)
	}
	return m, nil
}

// Clock tells the time. It is due at [Machine.Wake] at the latest; later is
// safe, but nothing happens in between.
func (m *Machine) Clock(at time.Duration) []Decision {
	return m.each(at, func(*state) {})
}

// Want says whether the shard belongs on this node. A shard that is served and
// no longer wanted is served until [Machine.GiveUp].
func (m *Machine) Want(at time.Duration, shard uint32, wanted bool) []Decision {
	return m.on(at, shard, func(s *state) { s.wanted = wanted })
}

// SessionBegan tells of a new session, with which locks are taken from now on.
func (m *Machine) SessionBegan(at time.Duration, id string) []Decision {
	if id == m.session {
		return m.Clock(at)
	}
	m.session = id
	return m.each(at, func(s *state) {
		if s.hold == nil && s.pending == 0 {
			return // the count of a lock that others left runs on
		}
		s.pending = 0
		m.drop(s, SessionEnded)
	})
}

// SessionLost tells that the session is gone, and with it every lock.
func (m *Machine) SessionLost(at time.Duration) []Decision {
	return m.SessionBegan(at, "")
}

// Cluster tells what the cluster's record says: its id, drawn when it was
// created, and the base, which every epoch is above. Another id starts every
// count anew.
func (m *Machine) Cluster(at time.Duration, id string, base uint64) []Decision {
	changed := id != m.cluster
	m.cluster, m.base = id, base
	return m.each(at, func(s *state) {
		if changed {
			m.forget(s)
		}
	})
}

// Heard tells of an epoch of the shard that a peer knows. One above [MaxEpoch]
// is passed over.
func (m *Machine) Heard(at time.Duration, shard uint32, epoch uint64) []Decision {
	if epoch > MaxEpoch {
		return m.Clock(at)
	}
	return m.on(at, shard, func(s *state) { s.highest = max(s.highest, epoch) })
}

// Serves returns the epoch under which the node may answer for the shard at
// that time, and whether it may.
func (m *Machine) Serves(shard uint32, at time.Duration) (epoch uint64, ok bool) {
	h := m.states[shard].hold
	if h == nil || !h.serving || max(at, m.now) >= h.until {
		return 0, false
	}
	return h.epoch, true
}

// Highest returns the highest epoch of the shard that the node knows of, which
// is what it tells its peers.
func (m *Machine) Highest(shard uint32) uint64 { return m.states[shard].highest }

// on takes an event of one shard. One of a shard that there is not, as another
// cluster's node may tell of, is passed over.
func (m *Machine) on(at time.Duration, shard uint32, event func(*state)) []Decision {
	if shard >= m.cfg.Shards {
		return m.Clock(at)
	}
	m.now, m.out = max(m.now, at), nil
	s := &m.states[shard]
	m.lapse(s)
	event(s)
	m.advance(s)
	m.prove()
	return m.out
}

// each takes an event that touches all shards.
func (m *Machine) each(at time.Duration, event func(*state)) []Decision {
	m.now, m.out = max(m.now, at), nil
	for i := range m.states {
		m.lapse(&m.states[i])
		event(&m.states[i])
		m.advance(&m.states[i])
	}
	m.prove()
	return m.out
}

func (m *Machine) decide(d Decision) { m.out = append(m.out, d) }

// number returns a number that was not given before.
func (m *Machine) number() uint64 {
	m.serial++
	return m.serial
}
