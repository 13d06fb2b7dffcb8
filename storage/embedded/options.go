package embedded

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/VictoriaMetrics/metrics"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Defaults and fixed bounds.
const (
	defaultShards     = 256
	maxShards         = 1 << 16
	defaultTailBytes  = 32 << 20
	defaultMinFree    = 256 << 20
	defaultMaxBatch   = 16 << 20
	defaultMaxFrame   = 64 << 20
	defaultGrowBytes  = 1 << 20
	defaultCacheBytes = 64 << 20
	defaultRetryPause = 20 * time.Millisecond
	defaultRetryMax   = time.Second
)

// Options configure Open. The zero value of every field but Dir is a sensible
// default.
type Options struct {
	// Dir is the data folder. It is created where it does not exist.
	Dir string
	// Shards is the number of shards, a power of two. Zero takes what the
	// folder says, or 256 for a new one. A folder that says otherwise is
	// refused with ErrShards.
	Shards uint32
	// Logger gets changes of state at Info and Error, pebble's own lines at
	// Debug. Nil logs nothing.
	Logger *slog.Logger
	// FS is the file system. Nil is the real one.
	FS vfs.FS
	// Metrics gets the store's metrics. Nil keeps them private.
	Metrics *metrics.Set

	// TailBytes is the size of the journal since the last checkpoint at which
	// the next checkpoint begins. Commits wait at twice this size. Default
	// 32 MiB.
	TailBytes int64
	// MinFreeBytes is the free space below which commits are refused with
	// ErrDiskFull. It is the room in which checkpoints and compactions end
	// their work. Default 256 MiB, but at most an eighth of the disk; negative
	// switches the check off.
	MinFreeBytes int64
	// MaxBatchBytes is the largest encoded size of one shard's batch. Default
	// 16 MiB.
	MaxBatchBytes int
	// MaxFrameBytes is the largest record of the journal; a commit above it
	// is split into several. At least MaxBatchBytes. Default 64 MiB.
	MaxFrameBytes int
	// GrowBytes is the step in which a journal file is filled with zeros ahead
	// of its records, which makes their syncs cheaper. Default 1 MiB; negative
	// switches it off.
	GrowBytes int64
	// CacheBytes is the size of pebble's block cache. Default 64 MiB.
	CacheBytes int64
	// RetryMin and RetryMax bound the pause between two attempts to recover.
	// Defaults 20 ms and 1 s.
	RetryMin, RetryMax time.Duration

	hooks *hooks
}

// hooks break the store on purpose. Tests set them to show that they would
// notice.
type hooks struct {
	// skipSync acknowledges without a sync.
	skipSync bool
	// showBeforeSync makes records visible before they are synced.
	showBeforeSync bool
	// dropBeforeFlush deletes journal files before pebble has flushed.
	dropBeforeFlush bool
	// lenient takes every bad record for a torn end.
	lenient bool
	// keepOldTail goes on with the old journal file after a recovery instead
	// of writing the tail anew.
	keepOldTail bool
	// reached, where not nil, is called at named points of the code.
	reached func(point string)
}

func (h *hooks) at(point string) {
	if h.reached != nil {
		h.reached(point)
	}
}

// withDefaults returns o with every zero field filled in.
func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, fmt.Errorf("%w: no folder is named", ErrUnwritable)
	}
	if o.Shards > maxShards || o.Shards&(o.Shards-1) != 0 {
		return o, fmt.Errorf("%w: got %d", ErrShardCount, o.Shards)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Metrics == nil {
		o.Metrics = metrics.NewSet()
	}
	if o.hooks == nil {
		o.hooks = &hooks{}
	}
	orDefault(&o.TailBytes, defaultTailBytes)
	orDefault(&o.MaxBatchBytes, defaultMaxBatch)
	orDefault(&o.MaxFrameBytes, defaultMaxFrame)
	orDefault(&o.GrowBytes, defaultGrowBytes)
	orDefault(&o.CacheBytes, defaultCacheBytes)
	orDefault(&o.RetryMin, defaultRetryPause)
	orDefault(&o.RetryMax, defaultRetryMax)
	o.MaxFrameBytes = min(max(o.MaxFrameBytes, o.MaxBatchBytes), maxPayload)
	return o, nil
}

func orDefault[T int | int64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}
