package owner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/internal/boottime"
)

// MaxSkew is by how much the clock of a node may differ from the store's or
// its peers'. Beyond it the node takes no shards.
const MaxSkew = 5 * time.Second

// What Start and the loop end with, beside the errors of package cluster.
var (
	// ErrName is a node name that another process has, which answers.
	ErrName = errors.New("owner: another node has this name")
	// ErrAddr is an address, as others reach it, that another process announces,
	// which answers.
	ErrAddr = errors.New("owner: another node has this address")
	// ErrSilent is a node that the authority does not answer.
	ErrSilent = errors.New("owner: the authority does not answer this node")
	// ErrClosed is an owner that was closed, or has left.
	ErrClosed = errors.New("owner: closed")
	// ErrNotGiven is a Leave that had to let go of shards without handing them
	// over: whoever takes them waits for a delay first.
	ErrNotGiven = errors.New("owner: not all shards were handed over")
)

// Config is what an owner is told at its start.
type Config struct {
	// Authority decides who holds what.
	Authority cluster.Authority
	// Member is this node. Its State is ignored.
	Member cluster.Member
	// Record is what this node has: zero fields are open, see
	// cluster.Record.Fit. LockDelay counts where the record is written anew.
	Record cluster.Record
	// Store raises epochs.
	Store Store
	// Shards is the runtime.
	Shards Shards
	// Peers reaches the other members; nil for a node that cannot. Then no move
	// is clean, and with a store that is not shared nobody is asked.
	Peers Peers
	// Shared says that all members use one store.
	Shared bool
	// Skew tells by how much this clock is ahead of the store's or the peers';
	// nil where that is not known.
	Skew func(context.Context) (time.Duration, error)
	// Clock is CLOCK_BOOTTIME; nil takes the machine's.
	Clock func() time.Duration
	// CheckTTL is that of the authority; zero means cluster.DefaultCheckTTL.
	CheckTTL time.Duration
	// Logger may be nil.
	Logger *slog.Logger
	// Metrics may be nil. No two owners may share one.
	Metrics *metrics.Set
}

// Store raises epochs, and where it is not shared tells and forgets what it
// has. Its methods may be called concurrently.
type Store interface {
	// Raise makes new epochs durable. Results stand in the order of the
	// requests; an error says that nothing is known of any of them.
	Raise(ctx context.Context, requests []EpochRaise) ([]EpochRaised, error)
	// Written is the epoch under which the states of the shard that are there
	// were written, 0 where there are none. Not asked where the store is shared.
	Written(shard uint32) uint64
	// Empty drops the states of the shard, which is not served at the time. Not
	// called where the store is shared.
	Empty(shard uint32)
}

// EpochRaise asks for a new epoch of a shard.
type EpochRaise struct {
	Shard uint32
	Epoch uint64
	// From, where not zero, is the epoch that the store must have. A store that
	// has Epoch already, raised by this incarnation, counts as raised.
	From        uint64
	Incarnation cluster.Incarnation
}

// EpochRaised is the answer to one EpochRaise.
type EpochRaised struct {
	OK bool
	// Epoch is the store's; where OK is not set, it may be what stands in the way.
	Epoch uint64
	// Time is the shard's clock at its last commit, in Unix milliseconds.
	Time int64
	// Err says why it was not raised where it is not that Epoch is in the way.
	Err error
}

// Shards is what answers for shards. But for Drain its methods are called by
// one goroutine, which waits for them: they return soon, and do not wait for
// anything that waits for the owner.
type Shards interface {
	// Serve says to answer for a shard from now on.
	Serve(s Serving)
	// Extend moves the end of trust of shards that are served.
	Extend(shards []uint32, until time.Duration)
	// Stop says to answer no more, at once. A shard that is not served under
	// this epoch is none of its concern.
	Stop(shard uint32, epoch uint64)
	// Drain takes no new turn, makes durable and answers what was begun, and
	// then answers nothing. After an error the shard may be in any state between.
	Drain(ctx context.Context, shard uint32, epoch uint64) error
}

// Serving is a shard that is to be answered for.
type Serving struct {
	Shard uint32
	// Epoch is at the store already.
	Epoch uint64
	// Time is the shard's clock as the store has it, in Unix milliseconds.
	Time int64
	// Until is when trust ends, by Config.Clock.
	Until time.Duration
}

// Peers are the other members. Its methods may be called concurrently.
type Peers interface {
	// Offer tells a member that shards will be released to it.
	Offer(ctx context.Context, to cluster.Member, from cluster.Incarnation, offers []Offer) error
	// Highest asks a member for the highest epochs that it knows of shards, not
	// counting those that the asking incarnation itself wrote: its
	// Owner.Highest.
	Highest(ctx context.Context, of cluster.Member, asks cluster.Incarnation, shards []uint32) ([]uint64, error)
}

// Offer is a shard that its owner will release.
type Offer struct {
	Shard uint32
	// Epoch is the owner's.
	Epoch   uint64
	Handoff cluster.HandoffID
}

func (c *Config) validate() error {
	switch {
	case c.Authority == nil || c.Store == nil || c.Shards == nil:
		return errors.New("owner: Config lacks an Authority, a Store or Shards")
	case c.Member.Name == "" || c.Member.Incarnation == cluster.Incarnation{}:
		return errors.New("owner: Config.Member lacks a name or an incarnation")
	case c.CheckTTL < 0:
		return fmt.Errorf("owner: Config.CheckTTL is %v", c.CheckTTL)
	}
	c.CheckTTL = cmp.Or(c.CheckTTL, cluster.DefaultCheckTTL)
	if c.Clock == nil {
		c.Clock = boottime.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}
