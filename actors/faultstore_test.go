package actors_test

import (
	"context"
	"errors"
	"sync"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/storage/memory"
)

var errBroken = errors.New("the store is broken by the test")

// faultStore is a memory store that claims to be durable and that the test can
// hold up and break.
type faultStore struct {
	actors.Store

	mu      sync.Mutex
	hold    chan struct{}                          // commits wait for its end
	verdict func(actors.Batch) actors.Status       // nil: Done
	land    func(actors.Batch, actors.Status) bool // whether a batch that is not Done is written all the same
	read    func(shard uint32) error
	scan    func(shard uint32) // called when a scan is over
	raise   func() error
	began   chan struct{} // gets a value as a commit begins
	commits int
}

func newFaultStore() *faultStore {
	return &faultStore{Store: memory.New(64), began: make(chan struct{}, 10_000)}
}

func (f *faultStore) Info() actors.StoreInfo {
	info := f.Store.Info()
	info.Durable = true
	return info
}

func (f *faultStore) set(change func(*faultStore)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

func (f *faultStore) Commit(ctx context.Context, batches []actors.Batch) []actors.Verdict {
	f.began <- struct{}{}
	f.mu.Lock()
	hold, verdict, land := f.hold, f.verdict, f.land
	f.commits++
	f.mu.Unlock()
	if hold != nil {
		<-hold // as a disk that hangs: ctx does not help
	}
	verdicts := make([]actors.Verdict, len(batches))
	for i, b := range batches {
		status := actors.Done
		if verdict != nil {
			status = verdict(b)
		}
		if status == actors.Done || land != nil && land(b, status) {
			verdicts[i] = f.Store.Commit(ctx, []actors.Batch{b})[0]
		}
		if status != actors.Done {
			verdicts[i] = actors.Verdict{Status: status, Err: errBroken}
		}
	}
	return verdicts
}

func (f *faultStore) Read(ctx context.Context, shard uint32, keys [][]byte, found func(int, []byte)) error {
	f.mu.Lock()
	read := f.read
	f.mu.Unlock()
	if read != nil {
		if err := read(shard); err != nil {
			return err
		}
	}
	return f.Store.Read(ctx, shard, keys, found)
}

func (f *faultStore) Scan(ctx context.Context, shard uint32, from, to []byte, yield func(key, value []byte) bool) error {
	err := f.Store.Scan(ctx, shard, from, to, yield)
	f.mu.Lock()
	scan := f.scan
	f.mu.Unlock()
	if scan != nil {
		scan(shard)
	}
	return err
}

func (f *faultStore) Raise(ctx context.Context, requests []actors.Raise) ([]actors.Raised, error) {
	f.mu.Lock()
	raise := f.raise
	f.mu.Unlock()
	if raise != nil {
		if err := raise(); err != nil {
			return nil, err
		}
	}
	return f.Store.Raise(ctx, requests)
}
