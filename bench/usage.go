package bench

import (
	"context"
	"fmt"
	"time"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Embedded is the Config.TargetName of a node in this process, whose CPU and
// memory are the generator's too.
const Embedded = "embedded"

// statusTimeout bounds a question about the target's usage.
const statusTimeout = 5 * time.Second

// informant is a target that tells of its nodes, as a node and a client do.
type informant interface {
	Status(ctx context.Context) (*quernv1.ClusterServiceStatusResponse, error)
}

// usage is what the node that answered has used and holds.
type usage struct {
	node   string // empty where nothing is known
	cpu    float64
	memory uint64
}

// targetUsage asks the target; it knows nothing of one that does not tell.
func (c *Config) targetUsage(ctx context.Context) usage {
	to, ok := c.Target.(informant)
	if !ok || c.TargetName == Embedded {
		return usage{}
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	s, err := to.Status(ctx)
	if err != nil {
		return usage{}
	}
	for _, n := range s.GetNodes() {
		if n.GetCpuSeconds() > 0 {
			return usage{node: n.GetNode(), cpu: n.GetCpuSeconds(), memory: n.GetMemoryBytes()}
		}
	}
	return usage{}
}

// target notes what the target used between two answers. Those of different
// nodes, or of a node that was started again, say nothing of that.
func (r *Result) target(before, after usage) {
	if after.node == "" || before.node != after.node || after.cpu < before.cpu {
		return
	}
	r.TargetCPUSeconds, r.TargetRSSBytes = after.cpu-before.cpu, int64(after.memory) //nolint:gosec // bytes of memory
}

// Side is what one side of the load used: its generator or its target.
type Side struct {
	Name       string
	CPUSeconds float64
	// PerOp is CPU in microseconds per operation that was done.
	PerOp    float64
	RSSBytes int64
	// Note stands for the numbers where it is not empty.
	Note string
}

// String describes what was used.
func (s Side) String() string {
	if s.Note != "" {
		return s.Note
	}
	return fmt.Sprintf("%.2f s of CPU, %.2f µs per operation, %d MiB", s.CPUSeconds, s.PerOp, s.RSSBytes>>20)
}

// Sides tells what the generator and the target used.
func (r *Result) Sides() []Side {
	perOp := func(seconds float64) float64 { return seconds * 1e6 / float64(max(r.Ops, 1)) }
	generator := Side{Name: "generator", CPUSeconds: r.CPUSeconds, PerOp: perOp(r.CPUSeconds), RSSBytes: r.RSSBytes}
	target := Side{Name: "target", CPUSeconds: r.TargetCPUSeconds, PerOp: perOp(r.TargetCPUSeconds), RSSBytes: r.TargetRSSBytes}
	switch {
	case r.Target == Embedded:
		target.Note = "the same process: the generator's CPU and memory are both sides'"
	case r.TargetRSSBytes == 0:
		target.Note = "it does not tell what it used"
	}
	return []Side{generator, target}
}

// Spread tells how the load was applied.
func (r *Result) Spread() string {
	out := fmt.Sprintf("%d workers", r.Concurrency)
	if r.Pipeline > 1 {
		out += fmt.Sprintf(" with %d operations each", r.Pipeline)
	}
	if r.Connections > 1 {
		out += fmt.Sprintf(" on %d connections", r.Connections)
	}
	if r.Processes > 1 {
		out += fmt.Sprintf(" of %d processes", r.Processes)
	}
	return out
}
