package actors

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"
	pactor "github.com/asynkron/protoactor-go/actor"

	"github.com/quern-io/quern/internal/boottime"
)

// Defaults of Config.
const (
	defaultResidentLimit = 1_000_000
	defaultQueueLimit    = 8192
	defaultWaitLimit     = 16384
	defaultParkLimit     = 262_144
	loaderWorkers        = 8
	readTimeout          = 10 * time.Second
	// relaxedPace is the time between two commits to a store that is not
	// durable, where no reply waits for them. A shard that is restarted, after
	// a defect, goes back to its last commit, and so loses what it has
	// acknowledged since: at most this much and the time of a commit.
	relaxedPace = 50 * time.Millisecond
)

// Config is what a Runtime needs.
type Config struct {
	// Store keeps the states. The Runtime does not close it.
	Store Store
	// Kinds are the kinds that are served.
	Kinds []Kind
	// Incarnation identifies this process; random where it is zero.
	Incarnation [16]byte
	// ResidentLimit bounds the grains in memory, over all shards; beyond it
	// idle ones are evicted, least recently used first. A kept answer counts
	// like a grain. Zero means 1,000,000.
	ResidentLimit int
	// QueueLimit bounds the calls that have arrived at a shard and were not
	// looked at yet; zero means 8,192. Beyond it calls get OVERLOADED.
	QueueLimit int
	// WaitLimit bounds the calls of a shard that wait for a load, for its
	// epoch or at the output gate; zero means 16,384. Beyond it calls get
	// OVERLOADED.
	WaitLimit int
	// ParkLimit bounds the calls that wait for a wake-up, such as for a lock,
	// over all shards; zero means 262,144. Beyond it calls get OVERLOADED.
	ParkLimit int
	// WatchersPerKey and WatchersPerShard bound the watchers; zero means
	// 16,384 and 65,536. Beyond them a watch gets OVERLOADED.
	WatchersPerKey, WatchersPerShard int
	// Leased makes the shards serve by leases: see Serve. Activate is not for
	// such a runtime.
	Leased bool
	// Clock is what leases end by. It must run on while the process, or the
	// machine, is stopped; nil is CLOCK_BOOTTIME.
	Clock func() time.Duration
	// OnEpoch hears that a shard has raised its own epoch at the store, after a
	// commit whose outcome was unknown, and serves under it. OnFenced hears that
	// a shard does not serve under an epoch any more, or not at all, since the
	// store refused it, since a defect ended it, or since it is not above the last
	// one; known is the epoch that stands in the way, 0 where it is not known. Both are for leased
	// runtimes, and are called from one goroutine, in order for each shard; of
	// several epochs of a shard the last may be told alone. nil ignores them.
	OnEpoch  func(shard uint32, epoch uint64)
	OnFenced func(shard uint32, epoch, known uint64)
	// Logger gets changes of state and defects; nil discards them.
	Logger *slog.Logger
	// Metrics gets the runtime's metrics; nil registers none.
	Metrics *metrics.Set
}

var (
	errNoStore = errors.New("actors: Config.Store is missing")
	errLeased  = errors.New("actors: Config.Leased is set: shards serve by leases")
)

func (c Config) withDefaults() (Config, error) {
	if c.Store == nil {
		return c, errNoStore
	}
	for _, n := range []struct {
		name  string
		value *int
		zero  int
	}{
		{"ResidentLimit", &c.ResidentLimit, defaultResidentLimit},
		{"QueueLimit", &c.QueueLimit, defaultQueueLimit},
		{"WaitLimit", &c.WaitLimit, defaultWaitLimit},
		{"ParkLimit", &c.ParkLimit, defaultParkLimit},
		{"WatchersPerKey", &c.WatchersPerKey, defaultWatchersPerKey},
		{"WatchersPerShard", &c.WatchersPerShard, defaultWatchersPerShard},
	} {
		if *n.value < 0 {
			return c, fmt.Errorf("actors: Config.%s is %d, must not be negative", n.name, *n.value)
		}
		if *n.value == 0 {
			*n.value = n.zero
		}
	}
	if c.Incarnation == [16]byte{} {
		_, _ = rand.Read(c.Incarnation[:]) // never fails
	}
	if c.Clock == nil {
		c.Clock = boottime.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Runtime runs the shards of one node. Its methods may be called concurrently.
type Runtime struct {
	cfg              Config
	store            Store
	log              *slog.Logger
	kinds            []Kind     // the last is that of the sessions
	kindNames        []string   // by index in kinds, but for the sessions'
	composers        []Composer // by index in kinds; nil for all others
	parks            []bool     // by index in kinds: it may park calls
	plain            []bool     // by index in kinds: it neither parks nor composes
	parked           atomic.Int64
	noWaits          atomic.Bool // nothing is parked any more
	gated            bool        // replies wait for the commit
	openWatches      bool        // events do not
	blindTrust       bool        // leases do not end; for tests
	residentPerShard int

	calls     callPool
	shards    []*shard
	system    *pactor.ActorSystem
	pids      []*pactor.PID
	committer committer
	raiser    raiser
	loader    loader
	sweeper   sync.WaitGroup
	herald    herald
	tidings   tidings

	life     sync.Mutex // guards Start and Stop
	started  bool
	stopped  bool
	cancel   context.CancelFunc
	stopping atomic.Bool
}

// New checks the configuration. It does no I/O.
func New(cfg Config) (*Runtime, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	info := cfg.Store.Info()
	r := &Runtime{
		cfg: cfg, store: cfg.Store, log: cfg.Logger, gated: info.Durable, openWatches: !info.Durable,
	}
	for _, k := range cfg.Kinds {
		name := k.Name()
		if r.kindOf(name) >= 0 || name == "" || len(name) > 64 || name[0] == '$' {
			return nil, fmt.Errorf("actors: kind name %q is empty, too long, begins with $ or is given twice", name)
		}
		r.kindNames = append(r.kindNames, name)
		composer, _ := k.(Composer)
		r.composers = append(r.composers, composer)
	}
	r.kinds = append(slices.Clone(cfg.Kinds), sessionKind{})
	for i, k := range r.kinds {
		_, parks := k.New().(Canceler)
		r.parks = append(r.parks, parks)
		r.plain = append(r.plain, !parks && i < len(r.composers) && r.composers[i] == nil)
	}
	shards := int(info.Shards)
	r.residentPerShard = max(1, cfg.ResidentLimit/max(1, shards))
	r.committer.store = cfg.Store
	if !r.gated {
		r.committer.pace = relaxedPace
	}
	r.raiser.rt = r
	for id := range info.Shards {
		r.shards = append(r.shards, newShard(r, id))
	}
	return r, nil
}

// Start brings up the actors. The shards serve once they were claimed.
func (r *Runtime) Start(ctx context.Context) error {
	r.life.Lock()
	defer r.life.Unlock()
	if r.started || r.stopped {
		return errors.New("actors: runtime was started before")
	}
	if err := r.register(r.cfg.Metrics); err != nil {
		return err
	}
	r.started = true
	// The workers outlive the caller's context; Stop ends them.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	r.committer.start(ctx)
	r.raiser.start(ctx)
	r.loader.start(ctx, loaderWorkers)
	r.herald.start()
	if r.cfg.Leased {
		r.tidings.start(&r.cfg)
	}
	r.sweeper.Go(func() { r.sweepAll(ctx) })

	r.system = pactor.NewActorSystem(pactor.WithLoggerFactory(func(*pactor.ActorSystem) *slog.Logger { return r.log }))
	for _, s := range r.shards {
		props := pactor.PropsFromProducer(func() pactor.Actor { return s },
			pactor.WithMailbox(func() pactor.Mailbox { return s.box }),
			pactor.WithGuardian(pactor.NewRestartingStrategy()))
		pid, err := r.system.Root.SpawnNamed(props, "shard-"+strconv.Itoa(int(s.id)))
		if err != nil {
			return fmt.Errorf("actors: spawn shard %d: %w", s.id, err)
		}
		r.pids = append(r.pids, pid)
	}
	return nil
}

// Claim is the ownership of a shard, under an epoch that the authority gave.
type Claim struct {
	Shard uint32
	// Epoch is raised further where the store knows a higher one.
	Epoch uint64
}

// Activate makes the claimed shards serve, and returns when they do. Calls to
// them wait meanwhile. Where ctx ends first, the attempts go on. It fails with
// NOT_OWNER where the store fences a shard, and with STOPPING after Stop.
func (r *Runtime) Activate(ctx context.Context, claims []Claim) error {
	if r.stopping.Load() {
		return errStopping
	}
	if r.cfg.Leased {
		return errLeased
	}
	done := make([]chan struct{}, len(claims))
	for i, c := range claims {
		done[i] = make(chan struct{})
		s := r.shards[c.Shard]
		s.box.post(func() { s.claim(c.Epoch, done[i]) })
	}
	for i, d := range done {
		select {
		case <-d:
		case <-ctx.Done():
			return fmt.Errorf("actors: shard %d has no durable epoch yet: %w", claims[i].Shard, ctx.Err())
		}
		if !r.shards[claims[i].Shard].owned.Load() {
			return fmt.Errorf("actors: shard %d was not taken: %w", claims[i].Shard, errNotOwner)
		}
	}
	return nil
}

// Serving reports whether a shard answers at present. One that this node owns
// does not while its epoch is being raised again.
func (r *Runtime) Serving(shard uint32) bool { return r.shards[shard].ready.Load() }

// Epoch returns the epoch under which a shard is owned, and whether it is.
func (r *Runtime) Epoch(shard uint32) (epoch uint64, serving bool) {
	s := r.shards[shard]
	return s.epoch.Load(), s.owned.Load()
}

// sweepAll lets the shards look for what is due.
func (r *Runtime) sweepAll(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		for _, s := range r.shards {
			if next := s.timers.next.Load(); next != 0 && next <= s.clock.seen() {
				s.box.post(s.sweep)
			}
			if next := s.parked.next.Load(); next != 0 && next <= now.UnixNano() {
				s.box.post(s.endLate)
			}
		}
	}
}

// EndWaits answers the calls that wait for a wake-up with STOPPING, and from now
// on those that would have to. Their places stay for those who come back. A node
// that stops does it before it waits for its callers.
func (r *Runtime) EndWaits() {
	r.noWaits.Store(true)
	for _, s := range r.shards {
		s.box.post(func() {
			s.failParked(errStopping)
			s.failHeldWaits()
		})
	}
}

// Stop refuses new operations, lets those that were begun become durable and
// be answered, and ends all goroutines. Where ctx ends first, what is left is
// answered "outcome unknown" and Stop returns the context's error. It may be
// called again, and before Start.
func (r *Runtime) Stop(ctx context.Context) error {
	r.life.Lock()
	defer r.life.Unlock()
	r.stopping.Store(true)
	if r.stopped || !r.started {
		r.stopped = true
		return nil
	}
	r.stopped = true
	err := r.drain(ctx)
	r.cancel()
	ended := make(chan error, 1)
	go func() { ended <- r.end() }()
	select {
	case e := <-ended:
		return errors.Join(err, e)
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("actors: a turn or the store still hangs: %w", ctx.Err()))
	}
}

// end stops the actors and waits for all goroutines. A turn or a commit that
// hangs holds it up.
func (r *Runtime) end() error {
	var err error
	for _, pid := range r.pids {
		if e := r.system.Root.StopFuture(pid).Wait(); e != nil && err == nil {
			err = fmt.Errorf("actors: %s did not stop: %w", pid.Id, e)
		}
	}
	r.committer.group.Wait()
	r.raiser.group.Wait()
	r.loader.group.Wait()
	r.sweeper.Wait()
	r.herald.end()
	if r.cfg.Leased {
		r.tidings.end()
	}
	r.system.Shutdown()
	r.unregister(r.cfg.Metrics)
	return err
}

func (r *Runtime) drain(ctx context.Context) error {
	done := make([]chan struct{}, len(r.shards))
	for i, s := range r.shards {
		done[i] = make(chan struct{})
		s.box.post(func() { s.drain(done[i]) })
	}
	for i, d := range done {
		select {
		case <-d:
		case <-ctx.Done():
			return fmt.Errorf("actors: shard %d still had work to make durable: %w", r.shards[i].id, ctx.Err())
		}
	}
	return nil
}
