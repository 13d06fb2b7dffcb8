package bench

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/quern-io/quern/handles"
)

// Defaults and bounds of a run.
const (
	DefaultDuration    = 10 * time.Second
	DefaultConcurrency = 64
	// DefaultGrace is how long operations that are still under way at the
	// end of the load may take before they count as unknown.
	DefaultGrace = 10 * time.Second
	// DefaultCheckTimeout bounds each of the two passes over the keys.
	DefaultCheckTimeout = 10 * time.Minute

	// MaxPipeline bounds Config.Pipeline, MaxProcesses Config.Processes.
	MaxPipeline  = handles.MaxManyKeys
	MaxProcesses = 64

	maxConcurrency = 16_384
	maxUnderWay    = 1_000_000 // workers times pipeline
	maxKeys        = 10_000_000
	maxRate        = 100_000_000
	maxPrefix      = 480 // a key is at most 512 bytes
	keyLifetime    = time.Hour
)

// Dist says which keys are chosen how often.
type Dist string

// The distributions.
const (
	// Uniform chooses every key equally often.
	Uniform Dist = "uniform"
	// Zipf chooses key n with a weight of 1/(n+1)^0.99, as YCSB does.
	Zipf Dist = "zipf"
)

// ErrConfig is wrapped by every error that is about the configuration.
var ErrConfig = errors.New("bench: bad configuration")

// Config describes a run. Zero values mean the default.
type Config struct {
	// Target takes the operations. It must be set.
	Target handles.Invoker
	// Targets are further connections to the same target. Workers are spread
	// over them and Target.
	Targets []handles.Invoker
	// Processes is how many apply the load; 1. Where there are more, each is
	// begun by Start, and this one only prepares and checks. Run ends them.
	Processes int
	Start     func() (Helper, error)
	// TargetName and Store are copied into the result.
	TargetName, Store string
	// Workload is one of [Workloads]; it must be set.
	Workload string
	// Duration of the load; [DefaultDuration].
	Duration time.Duration
	// Concurrency is the number of workers; [DefaultConcurrency], at most
	// 16,384.
	Concurrency int
	// Pipeline is the number of operations that a worker sends together and
	// waits for, at most 10,000; the default is [DefaultPipeline]. More than 1
	// needs a target that is a [handles.Batcher], but for counter-columns,
	// where it is the number of different keys in a call. In an open loop the
	// operations of a round are due together.
	Pipeline int
	// Keys is the number of keys, at most 10,000,000; the default depends on
	// the workload. For spawn it is the most that are made: when they are
	// used up the load ends.
	Keys int
	// Payload is the size in bytes of the values of map-put and map-get,
	// [MinPayload] to [MaxPayload]; [DefaultPayload].
	Payload int
	// Dist chooses keys; [Uniform].
	Dist Dist
	// Rate is the number of operations due per second; 0 is a closed loop.
	Rate float64
	// Prefix of the keys; "bench:<run>:".
	Prefix string
	// Run identifies the run; a fresh UUID.
	Run string
	// Seed of the choice of keys; 0 is a random one.
	Seed uint64
	// Grace is [DefaultGrace], CheckTimeout is [DefaultCheckTimeout].
	Grace, CheckTimeout time.Duration
	// Progress, where set, is called about once a second from one goroutine.
	Progress func(Progress)

	share    share
	workload *workload
	pace     func(d time.Duration, stop <-chan struct{})
}

// Progress is how far a run is.
type Progress struct {
	// Phase is prepare, load, check or expire.
	Phase string
	// Done is the share of the phase that is over, 0 to 1.
	Done float64
	// OpsPerSec is the load's rate a second or two ago; 0 until it is known.
	OpsPerSec float64
}

// complete checks the configuration and fills in the defaults.
func (c *Config) complete() error {
	if c.Target == nil {
		return fmt.Errorf("%w: no target", ErrConfig)
	}
	w, ok := workloads[c.Workload]
	if !ok {
		return fmt.Errorf("%w: no workload %q, there are %v", ErrConfig, c.Workload, Workloads())
	}
	c.workload = w
	setDefault(&c.Duration, DefaultDuration)
	setDefault(&c.Concurrency, DefaultConcurrency)
	setDefault(&c.Keys, w.keys)
	setDefault(&c.Processes, 1)
	setDefault(&c.Pipeline, max(1, w.pipeline))
	setDefault(&c.Dist, Uniform)
	if w.entries != noEntries {
		setDefault(&c.Payload, DefaultPayload)
	}
	setDefault(&c.Grace, DefaultGrace)
	setDefault(&c.CheckTimeout, DefaultCheckTimeout)
	setDefault(&c.Run, uuid.NewString())
	setDefault(&c.Prefix, "bench:"+c.Run+":")
	if c.Seed == 0 {
		c.Seed = rand.Uint64() //nolint:gosec // the choice of keys is no secret
	}
	if c.pace == nil {
		c.pace = pause
	}
	if err := c.validate(); err != nil {
		return err
	}
	if err := c.validatePayload(); err != nil {
		return err
	}
	return c.validateRounds()
}

func (c *Config) validatePayload() error {
	switch {
	case c.workload.entries == noEntries && c.Payload != 0:
		return fmt.Errorf("%w: payload %d, but %s has none", ErrConfig, c.Payload, c.Workload)
	case c.workload.entries == noEntries:
		return nil
	case c.Payload < MinPayload || c.Payload > MaxPayload:
		return fmt.Errorf("%w: payload %d is not %d to %d bytes", ErrConfig, c.Payload, MinPayload, MaxPayload)
	case c.Concurrency*c.Pipeline > maxPayloads/c.Payload:
		return fmt.Errorf("%w: %d workers with %d operations of %d bytes each are more than %d bytes", ErrConfig, c.Concurrency, c.Pipeline, c.Payload, maxPayloads)
	}
	return nil
}

// ownWorkers is how many of the workers are in this process.
func (c *Config) ownWorkers() int {
	if c.Processes > 1 {
		return 1 // for the sum of the others
	}
	return c.Concurrency
}

func (c *Config) validateRounds() error {
	switch {
	case c.Pipeline < 1 || c.Pipeline > MaxPipeline:
		return fmt.Errorf("%w: pipeline %d is not 1 to %d", ErrConfig, c.Pipeline, MaxPipeline)
	case c.Concurrency*c.Pipeline > maxUnderWay:
		return fmt.Errorf("%w: %d workers with %d operations each are more than %d", ErrConfig, c.Concurrency, c.Pipeline, maxUnderWay)
	case c.workload.columns && c.Keys < c.Pipeline:
		return fmt.Errorf("%w: keys %d, but %s takes %d different ones in a call (its pipeline)", ErrConfig, c.Keys, c.Workload, c.Pipeline)
	case c.workload.locks && (c.Pipeline > 1 || c.Processes > 1):
		return fmt.Errorf("%w: %s is checked in the memory of one process, which sends one operation at a time", ErrConfig, c.Workload)
	case c.Pipeline > 1 && !c.workload.columns && !c.batches():
		return fmt.Errorf("%w: pipeline %d, but the target takes one operation at a time", ErrConfig, c.Pipeline)
	case c.Processes < 1 || c.Processes > MaxProcesses:
		return fmt.Errorf("%w: processes %d is not 1 to %d", ErrConfig, c.Processes, MaxProcesses)
	case c.Processes > c.Concurrency:
		return fmt.Errorf("%w: %d processes for %d workers", ErrConfig, c.Processes, c.Concurrency)
	case c.Processes > 1 && c.Start == nil:
		return fmt.Errorf("%w: %d processes and no way to start them", ErrConfig, c.Processes)
	case 1+len(c.Targets) > c.Concurrency:
		return fmt.Errorf("%w: %d connections for %d workers", ErrConfig, 1+len(c.Targets), c.Concurrency)
	}
	return nil
}

// batches says whether every connection takes many operations at once.
func (c *Config) batches() bool {
	for _, t := range append([]handles.Invoker{c.Target}, c.Targets...) {
		if _, ok := t.(handles.Batcher); !ok {
			return false
		}
	}
	return true
}

func (c *Config) validate() error {
	switch {
	case c.Duration < 0:
		return fmt.Errorf("%w: duration %v is negative", ErrConfig, c.Duration)
	case c.Concurrency < 1 || c.Concurrency > maxConcurrency:
		return fmt.Errorf("%w: concurrency %d is not 1 to %d", ErrConfig, c.Concurrency, maxConcurrency)
	case c.Keys < 1 || c.Keys > maxKeys:
		return fmt.Errorf("%w: keys %d is not 1 to %d", ErrConfig, c.Keys, maxKeys)
	case c.workload.oneKey && c.Keys != 1:
		return fmt.Errorf("%w: keys %d, but %s works on one key", ErrConfig, c.Keys, c.Workload)
	case c.Dist != Uniform && c.Dist != Zipf:
		return fmt.Errorf("%w: dist %q is neither uniform nor zipf", ErrConfig, c.Dist)
	case c.workload.fresh && c.Dist != Uniform:
		return fmt.Errorf("%w: dist %s, but %s uses each key once", ErrConfig, c.Dist, c.Workload)
	case !(c.Rate >= 0) || c.Rate > maxRate:
		return fmt.Errorf("%w: rate %v is not 0 to %d", ErrConfig, c.Rate, maxRate)
	case len(c.Prefix) > maxPrefix:
		return fmt.Errorf("%w: the prefix has %d bytes, more than %d", ErrConfig, len(c.Prefix), maxPrefix)
	}
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
