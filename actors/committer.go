package actors

import (
	"context"
	"runtime"
	"sync"
	"time"
)

// committer gathers the flights of all shards and commits them together: what
// becomes dirty while a commit is under way goes with the next (group commit).
// A second goroutine lands the flights, so that the next sync starts at once.
type committer struct {
	store Store
	// pace is the least time between two commits, for a store that nobody
	// waits for; 0 commits as fast as the disk allows.
	pace   time.Duration
	counts commitCounts

	mu      sync.Mutex
	waiting []*flight // at most one per shard and activation
	wake    chan struct{}
	soon    chan struct{} // ends a pause between two commits
	landing chan []*flight
	group   sync.WaitGroup
}

func (k *committer) start(ctx context.Context) {
	k.wake = make(chan struct{}, 1)
	k.soon = make(chan struct{}, 1)
	k.landing = make(chan []*flight, 1)
	k.group.Go(func() { k.commitAll(ctx) })
	k.group.Go(k.landAll)
}

// enqueue hands over a flight until its verdict is posted.
func (k *committer) enqueue(f *flight) {
	k.mu.Lock()
	k.waiting = append(k.waiting, f)
	first := len(k.waiting) == 1
	k.mu.Unlock()
	if first {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
}

// take returns the flights that are waiting.
func (k *committer) take(spare []*flight) []*flight {
	k.mu.Lock()
	defer k.mu.Unlock()
	taken := k.waiting
	k.waiting = spare[:0]
	return taken
}

// gatherRounds bounds how often gather lets others go first.
const gatherRounds = 4

// gather lets whoever is ready to run add to the commit, as long as it grows: a
// sync costs the same for one flight as for many. On an idle machine nobody is
// ready, and it returns at once.
func (k *committer) gather() {
	for n := range gatherRounds {
		before := k.size()
		runtime.Gosched()
		if k.size() == before && n > 0 {
			return
		}
	}
}

func (k *committer) size() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.waiting)
}

func (k *committer) commitAll(ctx context.Context) {
	defer close(k.landing)
	var batches []Batch
	for {
		select {
		case <-k.wake:
		case <-ctx.Done():
			return
		}
		k.gather()
		flights := k.take(nil)
		if len(flights) == 0 {
			continue
		}
		batches = batches[:0]
		for _, f := range flights {
			batches = append(batches, f.batch)
			k.counts.records.Add(uint64(len(f.batch.Records)))
		}
		began := time.Now()
		verdicts := k.store.Commit(ctx, batches)
		k.counts.observe(time.Since(began), len(flights))
		for i, f := range flights {
			f.verdict = verdicts[i]
			if f.verdict.Status != Done {
				k.counts.failed.Add(1)
			}
		}
		k.landing <- flights
		if k.pace > 0 && !k.rest(ctx) {
			return
		}
	}
}

// hurry has what is waiting committed without a pause.
func (k *committer) hurry() {
	select {
	case k.soon <- struct{}{}:
	default:
	}
}

// rest keeps the pace; false means that ctx ended.
func (k *committer) rest(ctx context.Context) bool {
	timer := time.NewTimer(k.pace)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-k.soon:
		return true
	case <-ctx.Done():
		return false
	}
}

func (k *committer) landAll() {
	for flights := range k.landing {
		for _, f := range flights {
			f.shard.box.post(f.land)
		}
	}
}

// pause waits for d; false means that ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
