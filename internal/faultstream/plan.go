package faultstream

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// Faults say how often what happens, each as a probability per stream.
type Faults struct {
	Cut, Late, Mute, HalfClose, Stall, Replay float64
	// Unopened streams are refused, slow or not greeted.
	Unopened float64
	// Delay bounds the delay of a frame.
	Delay time.Duration
	// Within is how many frames of a direction a fault lets pass at most.
	Within int
}

// Rough is a network that breaks most of its streams.
func Rough() Faults {
	return Faults{
		Cut: 0.35, Late: 0.35, Mute: 0.2, HalfClose: 0.15, Stall: 0.3, Replay: 0.6,
		Unopened: 0.15, Delay: 4 * time.Millisecond, Within: 24,
	}
}

// action is what is done to a stream.
type action string

const (
	actCut       action = "cut"
	actLate      action = "late cut"
	actMute      action = "mute"
	actHalfClose action = "half-close"
	actStall     action = "stall"
	actReplay    action = "replay"
)

// step is an action that is due when a direction has carried some frames.
type step struct {
	act   action
	up    bool // counts the client's frames; of mute and stall also the direction
	after int
	lasts time.Duration
}

func (s step) String() string {
	direction := "down"
	if s.up {
		direction = "up"
	}
	return fmt.Sprintf("%s after %d %s (%v)", s.act, s.after, direction, s.lasts)
}

// plan is what will happen to one stream.
type plan struct {
	steps []step
	room  int
	// open is how long the stream takes to open; refused and ungreeted ones
	// never do.
	open      time.Duration
	refused   bool
	ungreeted bool
	// tail is how long after the client has left the server gets what was
	// under way; 0: it does not.
	tail time.Duration
}

func (p *plan) String() string {
	parts := []string{fmt.Sprintf("room %d, open %v, tail %v", p.room, p.open, p.tail)}
	if p.refused {
		parts = append(parts, "refused")
	}
	if p.ungreeted {
		parts = append(parts, "ungreeted")
	}
	for _, s := range p.steps {
		parts = append(parts, s.String())
	}
	return strings.Join(parts, "; ")
}

// newPlan draws a plan.
func (f Faults) newPlan(r *rand.Rand) *plan {
	p := &plan{room: 1 + r.IntN(16), open: upTo(r, 5*time.Millisecond)}
	add := func(chance float64, act action, longest time.Duration) {
		if r.Float64() < chance {
			after := 1 + r.IntN(1+r.IntN(f.Within)) // rather early
			p.steps = append(p.steps, step{act, r.IntN(2) == 0, after, upTo(r, longest)})
		}
	}
	add(f.Cut, actCut, 0)
	add(f.Late, actLate, 30*time.Second)
	add(f.Mute, actMute, 0)
	add(f.HalfClose, actHalfClose, 0)
	add(f.Stall, actStall, 4*time.Second)
	for range 2 {
		add(f.Replay, actReplay, time.Second<<r.IntN(8))
	}
	if r.Float64() < f.Late {
		p.tail = upTo(r, 30*time.Second)
	}
	if r.Float64() < f.Unopened {
		switch r.IntN(3) {
		case 0:
			p.refused = true
		case 1:
			p.open = upTo(r, 8*time.Second)
		default:
			p.ungreeted = true
		}
	}
	return p
}

// calmPlan is one without faults.
func calmPlan() *plan { return &plan{room: 16} }

// upTo returns a time below the longest, short ones as often as long ones.
func upTo(r *rand.Rand, longest time.Duration) time.Duration {
	if longest <= 0 {
		return 0
	}
	return time.Duration(float64(longest)*r.Float64()*r.Float64()) + 1
}
