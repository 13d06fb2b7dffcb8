package storagetest

import (
	"fmt"
	"maps"
	"math/rand/v2"

	"github.com/quern-io/quern/actors"
)

// model is the dumb twin of a store.
type model struct {
	epoch       [Shards]uint64
	incarnation [Shards][16]byte
	time        [Shards]int64
	records     [Shards]map[string]string
}

func (m *model) raise(r actors.Raise) actors.Raised {
	var ok bool
	switch {
	case r.From == 0:
		ok = m.epoch[r.Shard] < r.Epoch
	case m.epoch[r.Shard] == r.Epoch && m.incarnation[r.Shard] == r.Incarnation:
		ok = true
	default:
		ok = m.epoch[r.Shard] == r.From && r.From < r.Epoch
	}
	if ok {
		m.epoch[r.Shard], m.incarnation[r.Shard] = r.Epoch, r.Incarnation
	}
	return actors.Raised{OK: ok, Epoch: m.epoch[r.Shard], Time: m.time[r.Shard]}
}

func (m *model) commit(b actors.Batch) actors.Status {
	if b.Epoch == 0 || b.Epoch != m.epoch[b.Shard] {
		return actors.Fenced
	}
	for _, r := range b.Records {
		if r.Delete {
			delete(m.records[b.Shard], string(r.Key))
		} else {
			m.records[b.Shard][string(r.Key)] = string(r.Value)
		}
	}
	m.time[b.Shard] = b.Time
	return actors.Done
}

// player takes random steps on the store and on the model and compares.
type player struct {
	*fixture
	rng   *rand.Rand
	model model
	clock int64
}

// testRandom plays random steps. It prints the seed; Target.Seed plays it again.
func testRandom(f *fixture) {
	seed := f.target.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	f.Logf("seed %d", seed)
	p := &player{fixture: f, rng: rand.New(rand.NewPCG(seed, 1))}
	for i := range p.model.records {
		p.model.records[i] = map[string]string{}
	}
	steps := f.target.Steps
	if steps == 0 {
		steps = 3000
	}
	for range steps {
		p.step()
	}
	for shard := range uint32(Shards) {
		p.want("at the end", p.scan(shard, "", ""), p.model.records[shard])
	}
}

func (p *player) step() {
	switch n := p.rng.IntN(100); {
	case n < 15:
		p.raiseSome()
	case n < 65:
		p.commitSome()
	case n < 85:
		p.readSome()
	case n < 99:
		p.scanSome()
	case p.target.Durable && p.rng.IntN(4) == 0:
		p.reopen()
	}
}

func (p *player) shard() uint32 { return p.rng.Uint32N(Shards) }

func (p *player) key() string { return name(p.rng.IntN(60)) }

func (p *player) raiseSome() {
	var requests []actors.Raise
	var want []actors.Raised
	for _, shard := range p.rng.Perm(Shards)[:1+p.rng.IntN(3)] {
		r := actors.Raise{Shard: uint32(shard), Incarnation: [16]byte{byte(p.rng.IntN(2))}}
		r.Epoch = p.model.epoch[shard] + uint64(p.rng.IntN(3))
		if p.rng.IntN(2) == 0 {
			r.From = p.model.epoch[shard] + uint64(p.rng.IntN(2))
		}
		requests, want = append(requests, r), append(want, p.model.raise(r))
	}
	got, err := p.store.Raise(p.ctx, requests)
	if err != nil {
		p.Fatalf("raise: %v", err)
	}
	for i := range want {
		if got[i] != want[i] {
			p.Fatalf("raise %+v: %+v, want %+v", requests[i], got[i], want[i])
		}
	}
}

func (p *player) commitSome() {
	var batches []actors.Batch
	var want []actors.Status
	for _, shard := range p.rng.Perm(Shards)[:1+p.rng.IntN(Shards)] {
		p.clock += int64(p.rng.IntN(5))
		b := actors.Batch{Shard: uint32(shard), Epoch: p.model.epoch[shard], Time: p.clock}
		if p.rng.IntN(10) == 0 {
			b.Epoch += uint64(p.rng.IntN(3)) - 1
		}
		for range p.rng.IntN(8) {
			r := set(p.key(), fmt.Sprint(p.rng.Uint32()))
			if p.rng.IntN(4) == 0 {
				r = del(p.key())
			}
			b.Records = append(b.Records, r)
		}
		batches, want = append(batches, b), append(want, p.model.commit(b))
	}
	p.wantVerdicts(p.store.Commit(p.ctx, batches), want...)
}

func (p *player) readSome() {
	shard := p.shard()
	var keys []string
	for i := range 60 {
		if p.rng.IntN(6) == 0 {
			keys = append(keys, name(i))
		}
	}
	want := map[string]string{}
	for _, key := range keys {
		if value, ok := p.model.records[shard][key]; ok {
			want[key] = value
		}
	}
	p.want("read", p.read(shard, keys...), want)
}

func (p *player) scanSome() {
	shard := p.shard()
	var from, to string
	if p.rng.IntN(2) == 0 {
		from = p.key()
	}
	if p.rng.IntN(2) == 0 {
		to = p.key()
	}
	want := maps.Clone(p.model.records[shard])
	maps.DeleteFunc(want, func(key, _ string) bool { return key < from || to != "" && key >= to })
	p.want("scan", p.scan(shard, from, to), want)
}
