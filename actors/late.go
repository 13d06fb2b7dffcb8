package actors

import "time"

// endLate ends the calls whose deadline has passed while they were parked.
func (s *shard) endLate() {
	now := time.Now().UnixNano()
	for len(s.parked.late) > 0 && s.parked.late[0].call.deadline <= now {
		s.endParked(s.parked.late[0].call, errLate)
	}
	s.showLate()
}

func (s *shard) showLate() {
	next := int64(0)
	if len(s.parked.late) > 0 {
		next = s.parked.late[0].call.deadline
	}
	if s.parked.next.Load() != next {
		s.parked.next.Store(next)
	}
}

// deadlines is a heap of parked calls by their deadlines.
type deadlines []*parking

// Len implements heap.Interface.
func (h *deadlines) Len() int { return len(*h) }

// Less implements heap.Interface.
func (h *deadlines) Less(i, j int) bool { return (*h)[i].call.deadline < (*h)[j].call.deadline }

// Swap implements heap.Interface.
func (h *deadlines) Swap(i, j int) {
	a, b := (*h)[j], (*h)[i]
	(*h)[i], (*h)[j] = a, b
	a.late, b.late = i, j
}

// Push implements heap.Interface.
func (h *deadlines) Push(x any) {
	p, _ := x.(*parking)
	p.late = len(*h)
	*h = append(*h, p)
}

// Pop implements heap.Interface.
func (h *deadlines) Pop() any {
	last := len(*h) - 1
	p := (*h)[last]
	(*h)[last] = nil
	p.late = -1
	*h = (*h)[:last]
	return p
}
