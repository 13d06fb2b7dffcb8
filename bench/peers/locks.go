package peers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
)

// peerSession is how long a caller's lease or session lasts under which it takes
// all its locks, where a system wants one: beyond any run, so that nobody renews.
const peerSession = 24 * time.Hour

// Locks is a system's locks, as a number of callers use them: each has at most
// one lock at a time and one call under way.
type Locks interface {
	// Take takes a lock without waiting. It returns false where it is taken.
	Take(ctx context.Context, caller int, key string) (bool, error)
	// Give gives back what the caller took. It returns false where the caller
	// holds it no more.
	Give(ctx context.Context, caller int, key string) (bool, error)
}

// ErrLock says that a lock which is nobody else's was refused, or lost.
var ErrLock = errors.New("peers: a caller's own lock was refused or lost")

// LoadLocks runs a closed loop of cycles: each caller takes a random one of its
// own share of the keys and gives it back. It returns cycles per second.
func LoadLocks(locks Locks, callers int, keys []string, d time.Duration) (float64, error) {
	return loop(callers, d, func(chance *rand.Rand, caller int) func() (int, error) {
		share := (len(keys) - caller + callers - 1) / callers
		return func() (int, error) {
			key := keys[caller+callers*chance.IntN(share)]
			held, err := locks.Take(context.Background(), caller, key)
			if err == nil && held {
				held, err = locks.Give(context.Background(), caller, key)
			}
			if err == nil && !held {
				err = fmt.Errorf("%w: %s of caller %d", ErrLock, key, caller)
			}
			return 1, err
		}
	})
}

// QuernLocks is Quern's locks: one request to take, with a fresh owner and a
// lease of 30 s, and one to give back by the fencing token.
type QuernLocks struct {
	to     handles.Invoker
	tokens []uint64 // by caller
}

// NewQuernLocks returns the locks behind an invoker.
func NewQuernLocks(to handles.Invoker, callers int) *QuernLocks {
	return &QuernLocks{to: to, tokens: make([]uint64, callers)}
}

// Take implements Locks.
func (l *QuernLocks) Take(ctx context.Context, caller int, key string) (bool, error) {
	g, err := handles.NewLock(l.to, key).Grant(ctx, handles.LockOptions{Wait: -1})
	if g.Held {
		l.tokens[caller] = g.Token
	}
	return g.Held, err
}

// Give implements Locks.
func (l *QuernLocks) Give(ctx context.Context, caller int, key string) (bool, error) {
	err := handles.NewLock(l.to, key).Release(ctx, l.tokens[caller])
	if errors.Is(err, failure.NotHolder) {
		return false, nil
	}
	return err == nil, err
}

// LoadHandOver lets so many callers wait for one lock, take it and give it
// back, until d is over. It returns hand-overs per second: grants to another
// caller than the one before.
func LoadHandOver(to handles.Invoker, waiters int, key string, d time.Duration) (float64, error) {
	var seen witness
	lock := handles.NewLock(to, key)
	return loop(waiters, d, func(_ *rand.Rand, caller int) func() (int, error) {
		o := handles.LockOptions{Owner: "waiter-" + strconv.Itoa(caller), Wait: time.Minute}
		return func() (int, error) {
			g, err := lock.Grant(context.Background(), o)
			if err == nil && !g.Held {
				err = fmt.Errorf("peers: %s was not handed over within %v", key, o.Wait)
			}
			if err != nil {
				return 0, err
			}
			handed, err := seen.enter(int64(caller)+1, g.Token)
			if err != nil {
				return 0, err
			}
			return handed, lock.Release(context.Background(), g.Token)
		}
	})
}

// witness sees the grants of one lock. Only the lock's holder writes to it.
type witness struct {
	holder atomic.Int64
	token  atomic.Uint64
}

// enter returns how many hand-overs the grant is: 0 where the lock came back to
// its last holder.
func (w *witness) enter(holder int64, token uint64) (int, error) {
	if last := w.token.Swap(token); token <= last {
		return 0, fmt.Errorf("peers: the token %d was granted after %d", token, last)
	}
	if w.holder.Swap(holder) == holder {
		return 0, nil
	}
	return 1, nil
}
