package owner

import "sync"

// maxOffers bounds the events that peers can cause and that are not taken yet.
// Beyond it offers are dropped: whoever takes the shards then waits for a delay.
const maxOffers = 4096

// mail is what has happened and the loop has not taken yet. Posting never
// waits, since the runtime may post while the loop waits for it. What is in it
// is bounded by what is under way: answers by the requests, epochs of the
// runtime by its shards, offers by maxOffers.
type mail struct {
	mu     sync.Mutex
	events []func(*core)
	// news has something in it where events does.
	news chan struct{}
}

func newMail() *mail { return &mail{news: make(chan struct{}, 1)} }

func (m *mail) post(event func(*core)) {
	m.mu.Lock()
	m.events = append(m.events, event)
	m.mu.Unlock()
	select {
	case m.news <- struct{}{}:
	default:
	}
}

// offer posts unless there is too much already.
func (m *mail) offer(event func(*core)) {
	m.mu.Lock()
	full := len(m.events) >= maxOffers
	m.mu.Unlock()
	if !full {
		m.post(event)
	}
}

func (m *mail) take() []func(*core) {
	m.mu.Lock()
	defer m.mu.Unlock()
	events := m.events
	m.events = nil
	return events
}
