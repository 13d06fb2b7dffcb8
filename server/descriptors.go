package server

import "sync/atomic"

// Descriptors that are kept for what is no connection of a client: the store's
// files (1,000 of them are pebble's), connections to other services.
const (
	minReserve = 1_200
	maxReserve = 4_096
)

// descriptors bounds the connections of all listeners together, so that
// strangers cannot take the file descriptors that the store needs.
type descriptors struct {
	budget int64 // zero is no bound
	open   atomic.Int64
}

// newDescriptors keeps an eighth of the process's limit for others, within
// the two bounds, but never more than half.
func newDescriptors(limit int64) *descriptors {
	reserve := min(max(limit/8, minReserve), maxReserve, limit/2)
	return &descriptors{budget: limit - reserve}
}

// share returns how many connections one listener may have: maxConns, or, where
// that is less, all but an eighth of the budget, which is left for the other.
func (d *descriptors) share(maxConns int) int64 {
	if d.budget == 0 {
		return int64(maxConns)
	}
	return min(int64(maxConns), d.budget-d.budget/8)
}

// take counts a connection, unless there are too many.
func (d *descriptors) take() bool {
	if n := d.open.Add(1); n <= d.budget || d.budget == 0 {
		return true
	}
	d.open.Add(-1)
	return false
}

func (d *descriptors) give() { d.open.Add(-1) }
