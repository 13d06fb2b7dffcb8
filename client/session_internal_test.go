package client

import (
	"math/rand/v2"
	"testing"
)

// TestSessionAgainstATwin settles numbers in a random order, beside a map.
func TestSessionAgainstATwin(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	var s numbers
	open := map[uint64]bool{}
	for range 200_000 {
		if random.IntN(100) < 52 {
			fits := len(open) == 0 || s.last-lowest(open)+1 < sessionWindow
			n, ok := s.next()
			if ok != fits {
				t.Fatalf("number %d given: %v, with %d open", n, ok, len(open))
			}
			if ok {
				open[n] = true
			}
		} else {
			for n := range open { // any of them
				delete(open, n)
				s.settle(n)
				break
			}
		}
		want := s.last
		if len(open) > 0 {
			want = lowest(open) - 1
		}
		if s.settled != want {
			t.Fatalf("settled up to %d, want %d", s.settled, want)
		}
	}
	if s.settle(s.settled) || s.settle(s.last+1) {
		t.Error("settled what was not open")
	}
}

func lowest(open map[uint64]bool) uint64 {
	low := ^uint64(0)
	for n := range open {
		low = min(low, n)
	}
	return low
}

func TestSessionWindow(t *testing.T) {
	t.Parallel()
	var s numbers
	for range sessionWindow {
		if _, ok := s.next(); !ok {
			t.Fatal("no number")
		}
	}
	if n, ok := s.next(); ok {
		t.Errorf("number %d is beyond the window", n)
	}
	for n := uint64(sessionWindow); n > 1; n-- {
		if s.settle(n) {
			t.Errorf("settling %d made room", n)
		}
	}
	if !s.settle(1) || s.settled != sessionWindow {
		t.Errorf("settled up to %d", s.settled)
	}
	if n, ok := s.next(); !ok || n != sessionWindow+1 {
		t.Errorf("got %d, %v", n, ok)
	}
}
