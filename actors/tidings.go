package actors

import "sync"

// tidings tells the owner of the leases what became of epochs, on a goroutine of
// its own: a turn may be run by the owner itself. Its queue is bounded by the
// shards: each stands there once, with the last of each kind.
type tidings struct {
	mu    sync.Mutex
	queue []*shard          // guarded by mu
	news  map[uint32]tiding // of the shards in queue; guarded by mu
	wake  chan struct{}
	stop  chan struct{}
	group sync.WaitGroup
}

// tiding is what is to be told of a shard. Zero epochs are none.
type tiding struct {
	raised, fenced uint64
	known          uint64 // what fenced it
}

func (t *tidings) start(cfg *Config) {
	t.wake, t.stop = make(chan struct{}, 1), make(chan struct{})
	t.news = make(map[uint32]tiding)
	t.group.Go(func() {
		for {
			select {
			case <-t.wake:
				t.tellAll(cfg)
			case <-t.stop:
				t.tellAll(cfg)
				return
			}
		}
	})
}

// end returns when everything was told. Nothing is added any more.
func (t *tidings) end() {
	close(t.stop)
	t.group.Wait()
}

func (t *tidings) raised(s *shard, epoch uint64) {
	t.add(s, func(n *tiding) { n.raised = epoch })
}

func (t *tidings) fenced(s *shard, epoch, known uint64) {
	t.add(s, func(n *tiding) { n.fenced, n.known = epoch, known })
}

func (t *tidings) add(s *shard, change func(*tiding)) {
	t.mu.Lock()
	n, queued := t.news[s.id]
	change(&n)
	t.news[s.id] = n
	if !queued {
		t.queue = append(t.queue, s)
	}
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

func (t *tidings) tellAll(cfg *Config) {
	t.mu.Lock()
	queue, news := t.queue, t.news
	t.queue, t.news = nil, make(map[uint32]tiding)
	t.mu.Unlock()
	for _, s := range queue {
		n := news[s.id]
		fenced := func() {
			if n.fenced != 0 && cfg.OnFenced != nil {
				cfg.OnFenced(s.id, n.fenced, n.known)
			}
		}
		if n.fenced < n.raised { // of the tenure before
			fenced()
			n.fenced = 0
		}
		if n.raised != 0 && cfg.OnEpoch != nil {
			cfg.OnEpoch(s.id, n.raised)
		}
		fenced()
	}
}
