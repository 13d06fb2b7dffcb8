package embedded

import (
	"errors"

	"github.com/quern-io/quern/failure"
)

// Errors of Open. Each comes wrapped in a message that names the folder and
// says what to do.
var (
	// ErrForeign: the folder holds something and is not a Quern folder.
	ErrForeign = errors.New("embedded: not a Quern data folder")
	// ErrNewer: the folder was written by a newer format.
	ErrNewer = errors.New("embedded: data folder has a newer format")
	// ErrLocked: another process, or another Store of this one, has the folder.
	ErrLocked = errors.New("embedded: data folder is in use")
	// ErrShards: the folder was created with another number of shards.
	ErrShards = errors.New("embedded: other number of shards")
	// ErrCorrupt: bytes that were acknowledged are missing or changed. The
	// message names the file and the offset.
	ErrCorrupt = errors.New("embedded: data is corrupt")
	// ErrUnwritable: the folder cannot be created or written.
	ErrUnwritable = errors.New("embedded: data folder is not writable")
	// ErrShardCount: Options.Shards is no power of two.
	ErrShardCount = errors.New("embedded: the number of shards must be a power of two, at most 65536")
)

// Errors of a running store.
var (
	// ErrClosed: the store was closed. Terminal.
	ErrClosed = failure.NewCause(failure.Stopping, "embedded: store is closed")
	// ErrDiskFull: free space is below Options.MinFreeBytes, or the file
	// system refused to give more. Nothing was written; writes come back by
	// themselves when there is room. Open returns it too. Retryable.
	ErrDiskFull = errors.New("embedded: disk is full")
	// ErrBroken: a write or a sync failed and the store is being reopened.
	// In an Unclear verdict the records are perhaps written; everywhere else
	// nothing was. Retryable.
	ErrBroken = failure.NewCause(failure.StoreUnavailable, "embedded: store is recovering from a failed write")
	// ErrBehind: the states database does not keep up or fails, and the tail
	// has reached its bound. Nothing was written. Retryable.
	ErrBehind = failure.NewCause(failure.Overloaded, "embedded: checkpoint is behind")
	// ErrGrow: the journal's file could not be made longer. Nothing was
	// written. Where the disk is full, ErrDiskFull comes with it. Retryable.
	ErrGrow = errors.New("embedded: journal cannot grow")
	// ErrTooLarge: the batch is larger than Options.MaxBatchBytes. Terminal
	// for this batch.
	ErrTooLarge = failure.NewCause(failure.Limit, "embedded: batch is too large")
	// ErrShard: there is no such shard. Terminal.
	ErrShard = failure.NewCause(failure.Internal, "embedded: no such shard")
	// ErrFenced: the shard has another epoch. Terminal for the epoch.
	ErrFenced = errors.New("embedded: the shard has another epoch")
)

// errStopped is what file operations of a stopped generation return.
var errStopped = errors.New("embedded: this generation of the store was stopped")
