package actors

import "context"

// Barrier returns when all calls that were submitted to a shard before have
// had their turn.
func (r *Runtime) Barrier(shard uint32) {
	done := make(chan struct{})
	r.shards[shard].box.post(func() { close(done) })
	<-done
}

// WaitingAt returns how many calls wait in a shard.
func (r *Runtime) WaitingAt(shard uint32) int {
	n := make(chan int, 1)
	s := r.shards[shard]
	s.box.post(func() { n <- s.waiting })
	return <-n
}

// Crash makes a shard panic outside of any handler.
func (r *Runtime) Crash(shard uint32) {
	r.shards[shard].box.post(func() { panic("crashed by the test") }) //nolint:forbidigo // the point of it
}

// Resident returns the weight of a shard's memory.
func (r *Runtime) Resident() (n int) {
	for _, s := range r.shards {
		n += int(s.counts.resident.Load())
	}
	return n
}

var (
	ParseTimerKey = parseTimerKey
	DecodeOnce    = decodeOnce
)

const (
	OnceLimit = onceLimit
	OnceKept  = onceKept
	OnceYoung = onceYoung
)

// QueuedAt returns how many calls were left for a shard's runner.
func (r *Runtime) QueuedAt(shard uint32) int { return r.shards[shard].box.UserMessageCount() }

// IdleAt reports whether nobody runs a shard.
func (r *Runtime) IdleAt(shard uint32) bool { return r.shards[shard].box.head.Load() == nil }

// AppendTimerKey encodes a parsed key again.
func AppendTimerKey(t timerKey) []byte { return appendTimerKey(nil, t.due, t.class, t.kind, t.key) }

// RingAt returns how many places a shard's clock has.
func (r *Runtime) RingAt(shard uint32) int {
	n := make(chan int, 1)
	s := r.shards[shard]
	s.box.post(func() { n <- len(s.residents.ring) })
	return <-n
}

// SessionsAt returns how many sessions a shard has counted.
func (r *Runtime) SessionsAt(shard uint32) int {
	n := make(chan int, 1)
	s := r.shards[shard]
	s.box.post(func() { n <- s.sessions.open })
	return <-n
}

// Raising reports whether a shard waits for its epoch.
func (r *Runtime) Raising(shard uint32) bool {
	is := make(chan bool, 1)
	s := r.shards[shard]
	s.box.post(func() { is <- s.phase == raising })
	return <-is
}

// StateKey and OnceKey are the keys of records.
func StateKey(kind, key string) []byte { return appendStateKey(nil, kind, key) }

func OnceKey(kind, key, id string) []byte { return append(appendOncePrefix(nil, kind, key), id...) }

const (
	SessionKindName = sessionKindName
	SessionLimit    = sessionLimit
	SessionWindow   = sessionWindow
	SessionBytes    = sessionBytes
	FlightBytes     = flightBytes
)

// RecodeSession decodes a session's record and encodes it again.
func RecodeSession(record []byte) ([]byte, error) {
	var s session
	if err := s.Decode(record); err != nil {
		return nil, err
	}
	return s.Append(nil)
}

// SkipNumbers uses up n numbers of a shard's sequence.
func (r *Runtime) SkipNumbers(shard uint32, n uint64) {
	s := r.shards[shard]
	s.box.post(func() { s.sequence += n })
	r.Barrier(shard)
}

// ParkedAt returns how many calls of a shard wait for a wake-up.
func (r *Runtime) ParkedAt(shard uint32) int {
	n := make(chan int, 1)
	s := r.shards[shard]
	s.box.post(func() { n <- s.parked.n })
	return <-n
}

// Block holds up a shard until the channel is closed.
func (r *Runtime) Block(shard uint32, until <-chan struct{}) {
	entered := make(chan struct{})
	go r.shards[shard].box.post(func() { close(entered); <-until })
	<-entered
}

// TimersAt returns how many timers a shard's table has.
func (r *Runtime) TimersAt(shard uint32) (n int) {
	table := []byte{tableTimer}
	_ = r.store.Scan(context.Background(), shard, table, prefixEnd(table), func(_, _ []byte) bool { n++; return true })
	return n
}

// BreakWatches lets events pass the gate of a durable store. It must be called
// before anything is watched.
func (r *Runtime) BreakWatches() { r.openWatches = true }

// WatchersAt returns how many watchers and how many topics a shard has.
func (r *Runtime) WatchersAt(shard uint32) (watchers, topics int) {
	n := make(chan [2]int, 1)
	s := r.shards[shard]
	s.box.post(func() {
		topics := 0
		for i := range s.kinds {
			topics += len(s.kinds[i].topics)
		}
		n <- [2]int{s.watches.n, topics}
	})
	got := <-n
	return got[0], got[1]
}

// GuardLimit is how many locks a grain remembers.
const GuardLimit = guardLimit

// RecodeGuards decodes a record of guards and encodes it again.
func RecodeGuards(record []byte) ([]byte, error) {
	t, err := decodeGuards(record)
	if err != nil {
		return nil, err
	}
	return t.append(nil), nil
}

// CleanAt reports whether nothing of a shard is dirty or flies.
func (r *Runtime) CleanAt(shard uint32) bool {
	is := make(chan bool, 1)
	s := r.shards[shard]
	s.box.post(func() { is <- !s.gate.inFlight && len(s.gate.dirtyGrains) == 0 })
	return <-is
}

// TrustBlindly lets replies leave though their lease has ended. It must be called
// before anything is served.
func (r *Runtime) TrustBlindly() { r.blindTrust = true }

// LeaseCounts returns how many commits were fenced, replies withheld and shards
// drained.
func (r *Runtime) LeaseCounts() (fenced, withheld, drains uint64) {
	for _, s := range r.shards {
		fenced += s.counts.fenced.Load()
		withheld += s.counts.withheld.Load()
		drains += s.counts.drains.Load()
	}
	return fenced, withheld, drains
}

// Withheld returns how many replies were withheld.
func (r *Runtime) Withheld() uint64 {
	_, withheld, _ := r.LeaseCounts()
	return withheld
}
