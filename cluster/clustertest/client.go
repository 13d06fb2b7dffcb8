package clustertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/quern-io/quern/cluster"
)

// timeout bounds calls whose context has no deadline.
const timeout = 5 * time.Second

// Client is one process's connection to a Twin: a cluster.Authority with
// switches for faults of its own. Its methods may be called concurrently.
type Client struct {
	twin     *Twin
	cluster  string
	checkTTL time.Duration

	mu      sync.Mutex
	self    memberKey // of Join
	renewed time.Time
	renews  cluster.Session // the session that was renewed then
	cut     error
	stall   chan struct{} // closed by Resume; nil while requests pass
	lost    int           // replies of writes to be lost
}

var _ cluster.Authority = (*Client)(nil)

// Connect returns a connection of a process that is not a member yet. A check
// TTL of zero means cluster.DefaultCheckTTL.
func (t *Twin) Connect(name string, checkTTL time.Duration) *Client {
	if checkTTL == 0 {
		checkTTL = cluster.DefaultCheckTTL
	}
	return &Client{twin: t, cluster: name, checkTTL: checkTTL}
}

// Cut makes this client's requests fail at once, those under way as soon as
// something changes, until Heal.
func (c *Client) Cut() { c.setCut(errors.New("connection refused")) }

// Deny makes this client's requests fail for want of a permission, until Heal.
func (c *Client) Deny() { c.setCut(cluster.ErrDenied) }

// Heal ends Cut and Deny.
func (c *Client) Heal() { c.setCut(nil) }

func (c *Client) setCut(err error) {
	c.mu.Lock()
	c.cut = err
	c.mu.Unlock()
	c.twin.mu.Lock()
	defer c.twin.mu.Unlock()
	c.twin.changed()
}

// Stall makes this client's requests hang, each until its context ends, until
// Resume. A request that was given up never arrives.
func (c *Client) Stall() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stall == nil {
		c.stall = make(chan struct{})
	}
}

// Resume ends Stall.
func (c *Client) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stall != nil {
		close(c.stall)
		c.stall = nil
	}
}

// LoseReplies lets the next n writes of this client be carried out, and fail
// all the same.
func (c *Client) LoseReplies(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = n
}

func (c *Client) switches() (stall chan struct{}, cut error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stall, c.cut
}

func (c *Client) replyLost() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lost == 0 {
		return false
	}
	c.lost--
	return true
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ends := ctx.Deadline(); ends {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

// fault makes the error of a call: the end of a context, or what is wrong with
// the connection.
func fault(what string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, cluster.ErrDenied) || errors.Is(err, cluster.ErrSessionLost) {
		return fmt.Errorf("clustertest: %s: %w", what, err)
	}
	return fmt.Errorf("clustertest: %s: %w: %w", what, cluster.ErrUnreachable, err)
}

// write makes one request that changes something. carryOut runs under the
// twin's mutex, perhaps long after write has failed; what it sets may be read
// only where write has not.
func (c *Client) write(ctx context.Context, what string, carryOut func(now time.Time) error) error {
	var err error
	sent := func() { err = carryOut(time.Now()) }
	if failed := c.arrive(ctx, arrival{late: true}, sent); failed != nil {
		return fault(what, failed)
	}
	if c.replyLost() {
		return fault(what, errors.New("reply lost"))
	}
	return err
}

// arrival says what a request is.
type arrival struct {
	late  bool // it may be carried out after it was given up
	again bool // it was counted before
}

// arrive carries out a request when nothing holds it up.
func (c *Client) arrive(ctx context.Context, a arrival, carryOut func()) error {
	if err := sleep(ctx, c.twin.Latency); err != nil {
		return err
	}
	for {
		stall, cut := c.switches()
		if cut != nil {
			return cut
		}
		if stall == nil {
			break
		}
		if err := wait(ctx, stall); err != nil {
			return err
		}
	}
	t := c.twin
	t.mu.Lock()
	for t.stall != nil {
		stall := t.stall
		t.mu.Unlock()
		err := wait(ctx, stall)
		t.mu.Lock()
		if err != nil {
			if a.late && t.stall == stall {
				t.late = append(t.late, carryOut)
			}
			t.mu.Unlock()
			return err
		}
	}
	defer t.mu.Unlock()
	if !a.again {
		t.request++
	}
	if t.down {
		return errors.New("connection refused")
	}
	t.advance(time.Now())
	carryOut()
	return nil
}

// watch waits until index is no longer that of w, and then reads.
func (c *Client) watch(ctx context.Context, what string, w cluster.Watch, index func() uint64, read func()) (uint64, bool, error) {
	wait := min(max(w.Wait, 0), cluster.MaxWait)
	ctx, cancel := context.WithTimeout(ctx, wait+timeout)
	defer cancel()
	deadline := time.Now().Add(wait)
	for life := -1; ; {
		var (
			now, due time.Time
			news     chan struct{}
			at       uint64
			done     bool
		)
		look := func() {
			if life < 0 {
				life = c.twin.life
			}
			now, at, news = time.Now(), index(), c.twin.news
			due, _ = c.twin.next()
			if done = at > w.Index || w.Index == 0 || wait == 0 || life != c.twin.life || !now.Before(deadline); done {
				read()
			}
		}
		if err := c.arrive(ctx, arrival{again: life >= 0}, look); err != nil {
			return 0, false, fault(what, err)
		}
		if done {
			return at, at < w.Index, nil
		}
		until := deadline
		if due.After(now) && due.Before(until) {
			until = due
		}
		if err := waitUntil(ctx, news, until.Sub(now)); err != nil {
			return 0, false, fault(what, err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return ctx.Err() //nolint:wrapcheck // the callers say what was attempted
	}
	return waitUntil(ctx, nil, d)
}

func wait(ctx context.Context, signal <-chan struct{}) error {
	select {
	case <-signal:
		return nil
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // the callers say what was attempted
	}
}

// waitUntil waits for a signal, at most for d.
func waitUntil(ctx context.Context, signal <-chan struct{}, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-signal:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err() //nolint:wrapcheck // the callers say what was attempted
	}
}
