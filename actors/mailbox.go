package actors

import (
	"sync"
	"sync/atomic"

	pactor "github.com/asynkron/protoactor-go/actor"
)

// mailbox is a combining mailbox (flat combining: Hendler, Incze, Shavit and
// Tzafrir, SPAA 2010). A caller that finds the shard idle becomes its runner
// and runs the turn on its own goroutine; one that finds it busy leaves its
// call on a stack and waits. The runner takes the whole stack at once, and
// hands over to a goroutine of its own when it has served others for a while.
//
// It is the Mailbox of a Proto.Actor actor. The actor gets the mailbox itself
// as its message, "there are calls to run", and takes them with pop.
type mailbox struct {
	// head is nil while nobody runs the shard, &busy while somebody does and
	// nothing was left, else the call that was left last.
	head atomic.Pointer[call]
	// systemCount is raised before a runner is sought, so that either the
	// poster finds the shard idle or the runner sees the message.
	systemCount atomic.Int32
	// limit bounds the stack; see submit.
	limit int32
	// parked is set while the shard is suspended and nobody runs it, though
	// head says busy.
	parked   atomic.Bool
	calls    *callPool
	systemMu sync.Mutex
	system   []any

	// What follows belongs to the runner, in a cache line that callers leave
	// alone.
	ready     callList // had to wait for something and may run now
	todo      *call    // gathered, oldest first
	quota     int      // how many calls the run may still take
	invoker   pactor.MessageInvoker
	unwound   bool // a turn ended its goroutine: the shard must look around
	suspended bool
	// stopped: the actor is gone; dead answers what still comes.
	stopped  bool
	schedule func(func())
	dead     func(*call)
	// interrupted answers the call whose turn ended its goroutine.
	interrupted func()

	busy call
}

// inlineCalls is how many calls a caller runs, its own the first, before it
// hands over.
const inlineCalls = 256

func newMailbox(limit int, calls *callPool) *mailbox {
	return &mailbox{limit: int32(limit), calls: calls} //nolint:gosec // validated by Config
}

// submit runs or leaves an operation. It returns false, and keeps nothing,
// where limit operations are waiting already.
func (m *mailbox) submit(c *call) bool {
	for {
		top := m.head.Load()
		switch {
		case top == nil:
			if m.head.CompareAndSwap(nil, &m.busy) {
				c.next = nil
				m.todo = c
				if c.event == nil {
					m.drive(inlineCalls)
				} else {
					// Whoever posts is nobody's caller: it runs no handlers.
					m.drive(1)
				}
				return true
			}
			continue
		case top == &m.busy:
			c.depth.Store(1)
		default:
			// top may leave the stack meanwhile; then the exchange fails, or
			// it is on top again. A depth of an earlier life does no harm: it
			// was within the limit.
			depth := top.depth.Load()
			if depth >= m.limit && c.event == nil {
				return false
			}
			c.depth.Store(depth + 1)
		}
		c.next = top
		if m.head.CompareAndSwap(top, c) {
			return true
		}
	}
}

// post runs or leaves an event. Events are not bounded here: each comes from
// one of a fixed number of sources, or from a watcher that ends, once.
func (m *mailbox) post(event func()) {
	c := m.calls.get()
	c.event = event
	m.submit(c)
}

// pop takes the next call of the current batch; nil is the batch's end.
func (m *mailbox) pop() *call {
	if m.quota == 0 {
		return nil
	}
	c := m.todo
	if c == nil || m.ready.first != nil && c.event == nil {
		c = m.ready.pop()
	} else {
		m.todo = c.next
		c.next = nil
	}
	if c != nil {
		m.quota--
	}
	return c
}

// driveMore goes on with what a runner has left.
func (m *mailbox) driveMore() { m.drive(inlineCalls) }

// drive runs the shard until nothing is left to do or the quota is used up; the
// rest is left to a goroutine of its own. The caller is the runner.
func (m *mailbox) drive(quota int) {
	m.quota = quota
	finished := false
	defer func() {
		if !finished {
			m.recover(recover())
		}
	}()
	for {
		if m.systemCount.Load() > 0 {
			m.runSystem()
		}
		if m.suspended && !m.stopped {
			if m.park() {
				break
			}
			continue
		}
		if m.todo == nil && m.ready.first == nil && !m.unwound && !m.gather() {
			if m.release() {
				break
			}
			continue
		}
		if m.quota == 0 {
			m.schedule(m.driveMore)
			break
		}
		if m.stopped {
			m.unwound = false
			if c := m.pop(); c != nil {
				m.dead(c)
			}
			continue
		}
		m.unwound = false
		m.invoker.InvokeUserMessage(m)
	}
	finished = true
}

// gather takes the stack, oldest first. It returns false where it is empty.
func (m *mailbox) gather() bool {
	if m.head.Load() == &m.busy {
		return false
	}
	var oldest *call
	for c := m.head.Swap(&m.busy); c != &m.busy; {
		below := c.next
		c.next = oldest
		oldest, c = c, below
	}
	m.todo = oldest
	return true
}

// release lets the shard go idle. It returns false where there is something to
// do after all.
func (m *mailbox) release() bool {
	if !m.head.CompareAndSwap(&m.busy, nil) {
		return false
	}
	// A poster that found the shard busy relies on this second look.
	return m.systemCount.Load() == 0 || !m.head.CompareAndSwap(nil, &m.busy)
}

// park ends the run of a suspended shard, whose calls stay where they are. It
// returns false where a system message came in between.
func (m *mailbox) park() bool {
	m.parked.Store(true)
	return m.systemCount.Load() == 0 || !m.parked.CompareAndSwap(true, false)
}

// recover goes on after a turn that ended its goroutine: by a panic outside
// any handler, a defect for which the supervisor restarts the shard, or by
// runtime.Goexit inside of one, where reason is nil.
func (m *mailbox) recover(reason any) {
	m.interrupted()
	m.unwound = true
	if reason != nil {
		m.invoker.EscalateFailure(reason, nil)
	}
	m.schedule(m.driveMore)
}

func (m *mailbox) runSystem() {
	m.systemMu.Lock()
	if len(m.system) == 0 {
		m.systemMu.Unlock()
		return
	}
	message := m.system[0]
	m.system = m.system[1:]
	m.systemMu.Unlock()
	m.systemCount.Add(-1)
	switch message.(type) {
	case *pactor.SuspendMailbox:
		m.suspended = true
	case *pactor.ResumeMailbox:
		m.suspended = false
	default:
		m.invoker.InvokeSystemMessage(message)
	}
}

// PostSystemMessage implements pactor.Mailbox.
func (m *mailbox) PostSystemMessage(message any) {
	m.systemMu.Lock()
	m.system = append(m.system, message)
	m.systemMu.Unlock()
	m.systemCount.Add(1)
	if m.head.CompareAndSwap(nil, &m.busy) || m.parked.CompareAndSwap(true, false) {
		m.drive(0)
	}
}

// PostUserMessage implements pactor.Mailbox. Calls come by submit; what else
// Proto.Actor sends to a shard (the poison pill) arrives as an event.
func (m *mailbox) PostUserMessage(message any) {
	m.post(func() { m.invoker.InvokeUserMessage(message) })
}

// RegisterHandlers implements pactor.Mailbox.
func (m *mailbox) RegisterHandlers(invoker pactor.MessageInvoker, dispatcher pactor.Dispatcher) {
	m.invoker = invoker
	m.schedule = dispatcher.Schedule
}

// Start implements pactor.Mailbox.
func (m *mailbox) Start() {}

// UserMessageCount implements pactor.Mailbox: the calls that were left for the
// runner.
func (m *mailbox) UserMessageCount() int {
	if top := m.head.Load(); top != nil && top != &m.busy {
		return int(top.depth.Load())
	}
	return 0
}
