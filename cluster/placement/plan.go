package placement

import (
	"cmp"
	"slices"
)

// Member is a node that the cluster's authority lists as present.
type Member struct {
	// Name is the node's name, which outlives its incarnations. Members
	// without one are passed over. Of several of one name the strictest
	// counts.
	Name string
	// Cordoned members keep their shards and get no more.
	Cordoned bool
	// Draining members give their shards away.
	Draining bool
}

// Next returns the record for these members, in any order: r itself where
// nothing changes, else one with the next version. It takes some 20 ms for
// 1,000 members and 4,096 shards.
func (r *Record) Next(members []Member) *Record {
	p := newPlan(r, members)
	if len(p.active) > 0 {
		p.unplaceDraining()
		p.measure()
		p.ring = newRing(p.names, p.withRoom())
		p.shed()
		p.place()
	}
	return p.record(r)
}

// plan is a record on its way to the next.
type plan struct {
	// names are the members', in ascending order; members are told by their
	// place in it.
	names    []string
	cordoned []bool
	draining []bool
	// active are the members that are neither.
	active []int32
	// owners holds each shard's member, or nobody.
	owners []int32
	// load is the number of shards of each member.
	load []int
	// Active members have low shards, and extra of them one more.
	low, extra int
	// above counts the active members with more than low shards.
	above int
	// ring has those active members that had room at first.
	ring ring
}

func newPlan(r *Record, members []Member) *plan {
	members = slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.Name == "" })
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	p := &plan{owners: make([]int32, len(r.owners))}
	for _, m := range members {
		last := len(p.names) - 1
		if last < 0 || p.names[last] != m.Name {
			p.names, p.cordoned, p.draining = append(p.names, m.Name), append(p.cordoned, false), append(p.draining, false)
			last++
		}
		p.cordoned[last] = p.cordoned[last] || m.Cordoned
		p.draining[last] = p.draining[last] || m.Draining
	}
	for i := range int32(len(p.names)) { //nolint:gosec // far fewer
		if !p.cordoned[i] && !p.draining[i] {
			p.active = append(p.active, i)
		}
	}
	p.adopt(r)
	return p
}

// adopt takes over from r what belongs on nodes that are still members.
func (p *plan) adopt(r *Record) {
	members := make([]int32, len(r.nodes))
	for i, name := range r.nodes {
		at, found := slices.BinarySearch(p.names, name)
		if members[i] = int32(at); !found { //nolint:gosec // far fewer
			members[i] = nobody
		}
	}
	p.load = make([]int, len(p.names))
	for shard, owner := range r.owners {
		if owner != nobody {
			owner = members[owner]
		}
		p.owners[shard] = owner
		if owner != nobody {
			p.load[owner]++
		}
	}
}

func (p *plan) unplaceDraining() {
	for shard, owner := range p.owners {
		if owner != nobody && p.draining[owner] {
			p.take(shard)
		}
	}
}

// measure sets the even load of what the cordoned members do not keep.
func (p *plan) measure() {
	open := len(p.owners)
	for i, cordoned := range p.cordoned {
		if cordoned {
			open -= p.load[i]
		}
	}
	p.low, p.extra = open/len(p.active), open%len(p.active)
	p.above = 0
	for _, i := range p.active {
		if p.load[i] > p.low {
			p.above++
		}
	}
}

// room says whether an active member may get one more.
func (p *plan) room(member int32) bool {
	load := p.load[member]
	return load < p.low || load == p.low && p.above < p.extra
}

func (p *plan) withRoom() []int32 {
	var members []int32
	for _, i := range p.active {
		if p.room(i) {
			members = append(members, i)
		}
	}
	return members
}

// mustShed says whether a member has more than any even assignment leaves it.
func (p *plan) mustShed(member int32) bool {
	if p.cordoned[member] {
		return false
	}
	load := p.load[member]
	return load > p.low+1 || load == p.low+1 && p.above > p.extra
}

// shed takes from members what they have too much, first what moves nearest to
// its new place, measured against the distance to its present one. One pass is
// enough: both conditions of mustShed only ever become weaker, and each member
// above low comes by with every shard that it has.
func (p *plan) shed() {
	type candidate struct {
		shard int
		gain  int64
	}
	var candidates []candidate
	for shard, owner := range p.owners {
		if owner == nobody || !p.mustShed(owner) {
			continue
		}
		at := shardPoint(shard)
		here, there := distance(p.names[owner], at), p.ring.nearest(at)
		candidates = append(candidates, candidate{shard, int64(here/2) - int64(there/2)}) //nolint:gosec // halved
	}
	slices.SortStableFunc(candidates, func(a, b candidate) int { return cmp.Compare(b.gain, a.gain) })
	for _, c := range candidates {
		if p.mustShed(p.owners[c.shard]) {
			p.take(c.shard)
		}
	}
}

// take leaves a shard without an owner.
func (p *plan) take(shard int) {
	owner := p.owners[shard]
	p.owners[shard] = nobody
	p.load[owner]--
	if p.load[owner] == p.low {
		p.above--
	}
}

// place gives each shard without an owner to the first member on the ring that
// has room. There is one: even loads add up to the number of shards.
func (p *plan) place() {
	for shard, owner := range p.owners {
		if owner != nobody {
			continue
		}
		member := p.ring.first(shardPoint(shard), p.room)
		p.owners[shard] = member
		p.load[member]++
		if p.load[member] == p.low+1 {
			p.above++
		}
	}
}

// record returns the plan as a record, or r where it says the same.
func (p *plan) record(r *Record) *Record {
	next := &Record{version: r.version + 1, owners: make([]int32, len(p.owners))}
	places := make([]int32, len(p.names))
	for i, load := range p.load {
		if places[i] = nobody; load > 0 {
			places[i] = int32(len(next.nodes)) //nolint:gosec // far fewer
			next.nodes = append(next.nodes, p.names[i])
		}
	}
	for shard, owner := range p.owners {
		if next.owners[shard] = nobody; owner != nobody {
			next.owners[shard] = places[owner]
		}
	}
	if slices.Equal(next.nodes, r.nodes) && slices.Equal(next.owners, r.owners) {
		return r
	}
	return next
}
