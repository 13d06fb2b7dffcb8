package postgres

import "time"

// TakeoverDelay is what a lone store waits after an owner that said no goodbye.
const TakeoverDelay = takeoverDelay

// RowLock is the lock that a commit takes.
const RowLock = rowLock

// WithRowLock returns o with another lock on the rows of shards, and a function
// that is called when a commit has them.
func WithRowLock(o Options, lock string, locked func()) Options {
	o.hooks.rowLock, o.hooks.locked = lock, locked
	return o
}

// WithSent returns o with a function that is called by a commit between sending
// and reading the answers.
func WithSent(o Options, sent func()) Options {
	o.hooks.sent = sent
	return o
}

// CheckFacts is what a new connection is asked.
func CheckFacts(version int, standby bool, fsync, synchronous string) error {
	return facts{version: version, standby: standby, fsync: fsync, synchronous: synchronous}.check()
}

// Hasty returns o with waits that suit a test.
func Hasty(o Options) Options {
	o.Patience, o.LockTimeout, o.LockWait = 500*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
	return o
}
