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

	maxConcurrency = 16_384
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
	// TargetName and Store are copied into the result.
	TargetName, Store string
	// Workload is one of [Workloads]; it must be set.
	Workload string
	// Duration of the load; [DefaultDuration].
	Duration time.Duration
	// Concurrency is the number of workers; [DefaultConcurrency], at most
	// 16,384.
	Concurrency int
	// Keys is the number of keys, at most 10,000,000; the default depends on
	// the workload. For spawn it is the most that are made: when they are
	// used up the load ends.
	Keys int
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
	setDefault(&c.Dist, Uniform)
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
	return c.validate()
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
