package bench

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

func TestPackedNumbers(t *testing.T) {
	t.Parallel()
	for _, p := range []packed{nil, {0}, {1, -1, 63, 64, math.MaxInt64, math.MinInt64}, make(packed, 100_000)} {
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var got packed
		if err := json.Unmarshal(text, &got); err != nil || !slices.Equal(got, p) {
			t.Errorf("%d numbers became %d: %v", len(p), len(got), err)
		}
	}
	for _, text := range []string{`"gA=="`, `"!"`, `7`} {
		if err := json.Unmarshal([]byte(text), new(packed)); err == nil {
			t.Errorf("%s decodes", text)
		}
	}
}

func TestAHistogramOfAnotherGeometryIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := histogram(runDigits, make(packed, 5)); !errors.Is(err, errPacked) {
		t.Errorf("%v", err)
	}
	h := newHistogram(runDigits)
	if err := h.RecordValues(12_345, 7); err != nil {
		t.Fatal(err)
	}
	got, err := histogram(runDigits, h.Export().Counts)
	if err != nil || !got.Equals(h) || got.TotalCount() != 7 || got.ValueAtQuantile(50) != h.ValueAtQuantile(50) {
		t.Errorf("%v %v", got, err)
	}
}

func TestSharesAddUp(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"counter-add", "spawn"} {
		cfg := Config{Target: newFake(), Workload: name, Concurrency: 8, Keys: 101, Rate: 1000}
		if err := cfg.complete(); err != nil {
			t.Fatal(err)
		}
		loads, err := newGenerator(&cfg).shares(3)
		if err != nil {
			t.Fatal(err)
		}
		workers, rate, keys := 0, 0.0, 0
		for i, l := range loads {
			if l.Before != workers || l.Index != i {
				t.Errorf("%+v", l)
			}
			workers, rate, keys = workers+l.Concurrency, rate+l.Rate, keys+l.Keys
		}
		if want := map[string]int{"counter-add": 303, "spawn": 101}[name]; workers != 8 || math.Abs(rate-1000) > 1e-6 || keys != want {
			t.Errorf("%s: %d workers, %v per second, %d keys", name, workers, rate, keys)
		}
	}
}

func TestHelpRefusesOrdersThatItCannotFollow(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                          "no load",
		`{"go":true}`:               "no load",
		`{"load":{"workload":"x"}}`: `no workload "x"`,
		`{"load":{"workload":"counter-add","keys":2,"values":"AAAA"}}`: "3 values of 2 keys",
	} {
		var out strings.Builder
		err := Help(t.Context(), []handles.Invoker{newFake()}, strings.NewReader(text), &out)
		if err == nil || !strings.Contains(err.Error(), want) || out.Len() != 0 {
			t.Errorf("%s: %v %s", text, err, &out)
		}
	}
}

// telling is a target that says what it has used.
type telling struct {
	*fake
	asked int
	nodes []*quernv1.ClusterNode
}

func (s *telling) Status(context.Context) (*quernv1.ClusterServiceStatusResponse, error) {
	s.asked++
	if s.asked > len(s.nodes) {
		return nil, errLost
	}
	return &quernv1.ClusterServiceStatusResponse{Nodes: []*quernv1.ClusterNode{{Node: "other"}, s.nodes[s.asked-1]}}, nil
}

func TestWhatTheTargetUsed(t *testing.T) {
	a, b := &quernv1.ClusterNode{Node: "a", CpuSeconds: 1, MemoryBytes: 5 << 20}, &quernv1.ClusterNode{Node: "a", CpuSeconds: 3.5, MemoryBytes: 7 << 20}
	for name, tt := range map[string]struct {
		target string
		nodes  []*quernv1.ClusterNode
		cpu    float64
		says   string
	}{
		"one node":       {"x", []*quernv1.ClusterNode{a, b}, 2.5, "2.50 s of CPU, 2500.00 µs per operation, 7 MiB"},
		"embedded":       {Embedded, []*quernv1.ClusterNode{a, b}, 0, "the same process"},
		"another node":   {"x", []*quernv1.ClusterNode{a, {Node: "b", CpuSeconds: 9}}, 0, "does not tell"},
		"started again":  {"x", []*quernv1.ClusterNode{b, a}, 0, "does not tell"},
		"silent at last": {"x", []*quernv1.ClusterNode{a}, 0, "does not tell"},
		"silent":         {"x", nil, 0, "does not tell"},
		"an older node":  {"x", []*quernv1.ClusterNode{{Node: "a"}, {Node: "a"}}, 0, "does not tell"},
	} {
		r, err := Run(t.Context(), Config{
			Target: &telling{fake: newFake(), nodes: tt.nodes}, TargetName: tt.target, Workload: "spawn", Keys: 1000, Duration: time.Minute,
		})
		if err != nil {
			t.Fatal(err)
		}
		if s := r.Sides(); r.TargetCPUSeconds != tt.cpu || (r.TargetRSSBytes != 0) != (tt.cpu != 0) || !strings.Contains(s[1].String(), tt.says) || s[0].RSSBytes == 0 {
			t.Errorf("%s: %v s, %d bytes, %v", name, r.TargetCPUSeconds, r.TargetRSSBytes, s)
		}
	}
}
