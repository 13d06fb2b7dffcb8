package placement_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/quern-io/quern/cluster/placement"
)

// cluster is a record with the members that it was last made for.
type cluster struct {
	record  *placement.Record
	members []placement.Member
}

func newCluster(shards uint32, nodes int) *cluster {
	c := &cluster{record: placement.New(shards)}
	for i := range nodes {
		c.members = append(c.members, placement.Member{Name: fmt.Sprintf("node-%d", i)})
	}
	c.record = c.record.Next(c.members)
	return c
}

func (c *cluster) leave(names ...string) {
	c.members = slices.DeleteFunc(slices.Clone(c.members), func(m placement.Member) bool { return slices.Contains(names, m.Name) })
	c.record = c.record.Next(c.members)
}

func (c *cluster) join(members ...placement.Member) {
	c.members = append(slices.Clone(c.members), members...)
	c.record = c.record.Next(c.members)
}

func (c *cluster) flag(name string, cordoned, draining bool) {
	c.leaveUnplanned(name)
	c.join(placement.Member{Name: name, Cordoned: cordoned, Draining: draining})
}

func (c *cluster) leaveUnplanned(name string) {
	c.members = slices.DeleteFunc(slices.Clone(c.members), func(m placement.Member) bool { return m.Name == name })
}

// loads returns the number of shards of each node, and how many are on none.
func loads(r *placement.Record) (on map[string]int, none int) {
	on = make(map[string]int)
	for shard := range r.Shards() {
		if node := r.Node(shard); node != "" {
			on[node]++
		} else {
			none++
		}
	}
	return on, none
}

// moved returns the shards that are on another node in b than in a.
func moved(a, b *placement.Record) []uint32 {
	var shards []uint32
	for shard := range a.Shards() {
		if a.Node(shard) != b.Node(shard) {
			shards = append(shards, shard)
		}
	}
	return shards
}

func TestFirstAssignment(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		shards uint32
		nodes  int
	}{{256, 3}, {256, 1}, {1, 1}, {8, 20}, {256, 255}, {256, 256}, {256, 257}, {4096, 1000}, {65536, 7}} {
		r := newCluster(c.shards, c.nodes).record
		on, none := loads(r)
		mean := float64(c.shards) / float64(c.nodes)
		for node, n := range on {
			if float64(n) >= mean+1 || float64(n) <= mean-1 {
				t.Errorf("%d shards on %d nodes: %s has %d", c.shards, c.nodes, node, n)
			}
		}
		if none > 0 || len(on) != min(c.nodes, int(c.shards)) || r.Version() != 1 {
			t.Errorf("%d shards on %d nodes: %d are on none, %d nodes have some, version %d", c.shards, c.nodes, none, len(on), r.Version())
		}
	}
	on, _ := loads(newCluster(256, 3).record)
	for node, n := range on {
		if got := float64(n) / (256.0 / 3); got > 1.01 {
			t.Errorf("%s has %.3f times the mean", node, got)
		}
	}
}

func TestJoinsAndLeaves(t *testing.T) {
	t.Parallel()
	c := newCluster(256, 3)
	before := c.record
	c.join(placement.Member{Name: "node-3"})
	if got := moved(before, c.record); len(got) != 64 || len(c.record.Of("node-3")) != 64 {
		t.Errorf("a join of the fourth moved %d, and it has %d", len(got), len(c.record.Of("node-3")))
	}

	before = c.record
	c.leave("node-0")
	if got := moved(before, c.record); !slices.Equal(got, before.Of("node-0")) {
		t.Errorf("a leave moved %v, the leaver had %v", got, before.Of("node-0"))
	}
	if c.record.Of("node-0") != nil {
		t.Error("who left has shards")
	}

	before = c.record
	slices.Reverse(c.members)
	if got := before.Next(c.members); got != before {
		t.Errorf("nothing changed, and the record is another, of version %d", got.Version())
	}
}

// TestComeBack: who leaves for a moment gets back most of what it had.
func TestComeBack(t *testing.T) {
	t.Parallel()
	c := newCluster(256, 5)
	before := c.record
	c.leave("node-2")
	c.join(placement.Member{Name: "node-2"})
	again := 0
	for _, shard := range c.record.Of("node-2") {
		if before.Node(shard) == "node-2" {
			again++
		}
	}
	if again < 26 {
		t.Errorf("of 51 shards it got back %d; by chance it were 10", again)
	}
}

// TestLostShardsAreSpread: what a lost node had is taken over by all others.
func TestLostShardsAreSpread(t *testing.T) {
	t.Parallel()
	c := newCluster(256, 5)
	before := c.record
	c.leave("node-2")
	by := make(map[string]int)
	for _, shard := range moved(before, c.record) {
		by[c.record.Node(shard)]++
	}
	for node, n := range by {
		if n < 12 || n > 14 {
			t.Errorf("%s takes over %d", node, n)
		}
	}
}

func TestCordonedAndDraining(t *testing.T) {
	t.Parallel()
	c := newCluster(256, 3)
	before := c.record
	c.flag("node-1", true, false)
	if c.record != before {
		t.Error("a cordon moved something")
	}
	c.join(placement.Member{Name: "node-3"})
	if !slices.Equal(before.Of("node-1"), c.record.Of("node-1")) {
		t.Error("a join changed what a cordoned node has")
	}

	had := c.record.Of("node-1")
	before = c.record
	c.flag("node-1", false, true)
	if c.record.Of("node-1") != nil || !slices.Equal(moved(before, c.record), had) {
		t.Errorf("a drain left %v", c.record.Of("node-1"))
	}

	c.flag("node-0", false, true)
	c.flag("node-2", true, false)
	before = c.record
	c.flag("node-3", false, true)
	if c.record != before {
		t.Error("a draining node gave shards away although nobody is to take them")
	}
	had = c.record.Of("node-3")
	c.leave("node-3")
	if on, none := loads(c.record); none != len(had) || len(on) != 1 {
		t.Errorf("with a cordoned node alone %d shards are on none, %v", none, on)
	}
	c.leave("node-0", "node-2", "node-1")
	if _, none := loads(c.record); none != 256 {
		t.Errorf("without members %d shards are on none", none)
	}
	c.join(placement.Member{Name: "node-7"})
	if on, _ := loads(c.record); on["node-7"] != 256 {
		t.Errorf("the first to come back has %d", on["node-7"])
	}
}

func TestOddMembers(t *testing.T) {
	t.Parallel()
	r := placement.New(8).Next([]placement.Member{{Name: ""}, {Name: "b", Draining: true}, {Name: "a"}, {Name: "b"}})
	if on, _ := loads(r); on["a"] != 8 {
		t.Errorf("got %v", on)
	}
}

// TestRandomSeries holds every step of random histories to the promises, as a
// twin that counts without any cleverness understands them.
func TestRandomSeries(t *testing.T) {
	t.Parallel()
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			shards := uint32(1) << rng.IntN(11)
			c := newCluster(shards, 1+rng.IntN([]int{3, 10, 100, 1000}[seed%4]))
			for step := range 30 {
				before, old := c.record, c.members
				what := change(rng, c, step)
				if err := judge(before, c.record, old, c.members); err != "" {
					t.Fatalf("seed %d, step %d, %d shards, %d members, %s: %s", seed, step, shards, len(c.members), what, err)
				}
			}
		})
	}
}

// change does one random thing to the members.
func change(rng *rand.Rand, c *cluster, step int) string {
	some := func() string { return c.members[rng.IntN(len(c.members))].Name }
	name := fmt.Sprintf("new-%d", step)
	switch pick := rng.IntN(10); {
	case len(c.members) == 0 || pick < 3:
		c.join(placement.Member{Name: name})
		return "join"
	case pick < 6:
		c.leave(some())
		return "leave"
	case pick == 6:
		c.leaveUnplanned(some())
		c.join(placement.Member{Name: name}, placement.Member{Name: name + "b"})
		return "many"
	case pick == 7:
		c.flag(some(), true, false)
		return "cordon"
	case pick == 8:
		c.flag(some(), false, true)
		return "drain"
	default:
		c.flag(some(), false, false)
		return "uncordon"
	}
}

// judge says what is wrong with a step, "" where nothing is.
func judge(before, after *placement.Record, old, members []placement.Member) string {
	var wrong []string
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	had, _ := loads(before)
	has, none := loads(after)
	var active []string
	given := 0
	present := make(map[string]placement.Member)
	for _, m := range members {
		present[m.Name] = m
		switch {
		case !m.Cordoned && !m.Draining:
			active = append(active, m.Name)
		case m.Cordoned && !m.Draining:
			given += had[m.Name]
		}
	}
	if len(active) > 0 {
		if need := needed(int(before.Shards())-given, active, had); len(moved(before, after)) != need {
			say("%d shards moved, %d had to", len(moved(before, after)), need)
		}
		low, high := before.Shards(), uint32(0)
		for _, name := range active {
			low, high = min(low, uint32(has[name])), max(high, uint32(has[name]))
		}
		if high-low > 1 || none > 0 {
			say("loads from %d to %d, %d on none", low, high, none)
		}
	}
	for name, n := range has {
		m, there := present[name]
		if !there || m.Draining && len(active) > 0 || m.Cordoned && n > had[name] {
			say("%s (%+v, present %t) has %d", name, m, there, n)
		}
	}
	if n := joined(old, members); n > 0 && len(moved(before, after)) > (int(before.Shards())+n)/(n+1) {
		say("a join to %d moved %d", n, len(moved(before, after)))
	}
	if after != before && after.Version() != before.Version()+1 {
		say("version %d after %d", after.Version(), before.Version())
	}
	return strings.Join(wrong, "; ")
}

// needed is how many shards must move: all, but for what the most loaded keep
// where the largest quotas go to the most loaded.
func needed(open int, active []string, had map[string]int) int {
	loads := make([]int, len(active))
	for i, name := range active {
		loads[i] = had[name]
	}
	slices.SortFunc(loads, func(a, b int) int { return b - a })
	keep := 0
	for i, load := range loads {
		quota := open / len(active)
		if i < open%len(active) {
			quota++
		}
		keep += min(load, quota)
	}
	return open - keep
}

// joined returns how many members there were where one active one has come to
// only active ones, else 0.
func joined(old, members []placement.Member) int {
	idle := func(m placement.Member) bool { return m.Cordoned || m.Draining }
	if len(members) != len(old)+1 || slices.ContainsFunc(members, idle) {
		return 0
	}
	for i, m := range old {
		if members[i] != m {
			return 0
		}
	}
	return len(old)
}

// TestFirstAssignmentAgainstTwin: the first assignment is what consistent
// hashing with bounded loads gives when it is done by looking at every point.
func TestFirstAssignmentAgainstTwin(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 2))
		shards, nodes := uint32(1)<<rng.IntN(9), 1+rng.IntN(40)
		c := newCluster(shards, nodes)
		names := make([]string, nodes)
		for i, m := range c.members {
			names[i] = m.Name
		}
		for shard, want := range placement.Twin(int(shards), names) {
			if got := c.record.Node(uint32(shard)); got != want {
				t.Fatalf("seed %d: shard %d of %d is on %s of %d, not on %s", seed, shard, shards, got, nodes, want)
			}
		}
	}
}

func BenchmarkNext(b *testing.B) {
	const shards, nodes = 4096, 1000
	full := newCluster(shards, nodes)
	joined := append(slices.Clone(full.members), placement.Member{Name: "one more"})
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			placement.New(shards).Next(full.members)
		}
	})
	b.Run("join", func(b *testing.B) {
		for b.Loop() {
			full.record.Next(joined)
		}
	})
	b.Run("leave", func(b *testing.B) {
		for b.Loop() {
			full.record.Next(full.members[1:])
		}
	})
	b.Run("same", func(b *testing.B) {
		for b.Loop() {
			full.record.Next(full.members)
		}
	})
}
