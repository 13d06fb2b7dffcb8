package actors

import "sync"

// herald wakes the watchers of topics that have something new, on a goroutine of
// its own. Its queue is bounded by the topics: each stands there once, whatever
// happens to it meanwhile.
type herald struct {
	mu    sync.Mutex
	queue []*topic // guarded by mu
	wake  chan struct{}
	stop  chan struct{}
	group sync.WaitGroup
}

func (h *herald) start() {
	h.wake, h.stop = make(chan struct{}, 1), make(chan struct{})
	h.group.Go(func() {
		for {
			select {
			case <-h.wake:
				h.tellAll()
			case <-h.stop:
				h.tellAll()
				return
			}
		}
	})
}

// end returns when everybody was woken. Nothing is enqueued any more.
func (h *herald) end() {
	close(h.stop)
	h.group.Wait()
}

func (h *herald) enqueue(t *topic) {
	if t.queued.Swap(true) {
		return
	}
	h.mu.Lock()
	h.queue = append(h.queue, t)
	h.mu.Unlock()
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

func (h *herald) tellAll() {
	h.mu.Lock()
	topics := h.queue
	h.queue = nil
	h.mu.Unlock()
	for _, t := range topics {
		t.queued.Store(false) // before the wake: what comes now is told again
		t.wake()
	}
}
