package peers

import (
	"fmt"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	pactor "github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/cluster"
	"github.com/asynkron/protoactor-go/cluster/clusterproviders/test"
	"github.com/asynkron/protoactor-go/cluster/identitylookup/disthash"
	"github.com/asynkron/protoactor-go/remote"
	"google.golang.org/protobuf/proto"

	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// Counters is a set of counters by key. Add may be called concurrently.
type Counters interface {
	Add(key string, delta int64) (int64, error)
}

// mapShards is the number of mutexes of a Map: far more than there are CPUs,
// so that two callers rarely meet.
const mapShards = 256

// Map keeps counters in maps under sharded mutexes.
type Map struct {
	seed   maphash.Seed
	shards [mapShards]mapShard
}

type mapShard struct {
	mu     sync.Mutex
	values map[string]int64 // guarded by mu
	_      [48]byte         // keeps neighbours off one cache line
}

// NewMap returns an empty map.
func NewMap() *Map {
	m := &Map{seed: maphash.MakeSeed()}
	for i := range m.shards {
		m.shards[i].values = make(map[string]int64)
	}
	return m
}

// Add adds delta and returns the new value.
func (m *Map) Add(key string, delta int64) (int64, error) {
	s := &m.shards[maphash.String(m.seed, key)%mapShards]
	s.mu.Lock()
	value := s.values[key] + delta
	s.values[key] = value
	s.mu.Unlock()
	return value, nil
}

// requestTimeout bounds a request to Proto.Actor; none should come near it.
const requestTimeout = 30 * time.Second

// Actors keeps each counter in a Proto.Actor actor that answers through a
// Future, the way of asking that the library offers.
type Actors struct {
	system *pactor.ActorSystem
	pids   map[string]*pactor.PID // read only
}

type (
	addMessage   struct{ delta int64 }
	addedMessage struct{ value int64 }
)

type counterActor struct{ value int64 }

// Receive adds and answers.
func (a *counterActor) Receive(c pactor.Context) {
	if m, ok := c.Message().(*addMessage); ok {
		a.value += m.delta
		c.Respond(&addedMessage{a.value})
	}
}

// NewActors spawns one actor per key.
func NewActors(keys []string) *Actors {
	a := &Actors{system: pactor.NewActorSystem(quiet()), pids: make(map[string]*pactor.PID, len(keys))}
	props := pactor.PropsFromProducer(func() pactor.Actor { return new(counterActor) })
	for _, key := range keys {
		a.pids[key] = a.system.Root.Spawn(props)
	}
	return a
}

// Add adds delta and returns the new value. The key is one of NewActors.
func (a *Actors) Add(key string, delta int64) (int64, error) {
	reply, err := a.system.Root.RequestFuture(a.pids[key], &addMessage{delta}, requestTimeout).Result()
	if err != nil {
		return 0, err
	}
	added, ok := reply.(*addedMessage)
	if !ok {
		return 0, fmt.Errorf("peers: the actor answered %T", reply)
	}
	return added.value, nil
}

// Close ends the actor system.
func (a *Actors) Close() { a.system.Shutdown() }

// Grains keeps each counter in a grain of Proto.Actor's cluster: one member on
// its in-memory provider, called as its generated clients call.
type Grains struct {
	cluster *cluster.Cluster
}

const (
	grainKind = "counter"
	grainAdd  = 0 // the method's index
)

type counterGrain struct{ value int64 }

// Receive does what the generated actor does, but for its receive timeout,
// which would cost a timer per message.
func (g *counterGrain) Receive(c pactor.Context) {
	m, ok := c.Message().(*cluster.GrainRequest)
	if !ok || m.GetMethodIndex() != grainAdd {
		return
	}
	request := new(quernv1.CounterServiceAddRequest)
	if err := proto.Unmarshal(m.GetMessageData(), request); err != nil {
		c.Respond(cluster.NewGrainErrorResponse(cluster.ErrorReason_INVALID_ARGUMENT, err.Error()))
		return
	}
	g.value += request.GetDelta()
	c.Respond(&quernv1.CounterServiceAddResponse{Value: g.value, Applied: request.GetDelta()})
}

// NewGrains starts a cluster of one member on loopback. It takes a second: the
// library sleeps when a member starts.
func NewGrains() *Grains {
	props := pactor.PropsFromProducer(func() pactor.Actor { return new(counterGrain) })
	config := cluster.Configure("bench",
		test.NewTestProvider(test.NewInMemAgent()), disthash.New(), remote.Configure("127.0.0.1", 0),
		cluster.WithKinds(cluster.NewKind(grainKind, props)),
		cluster.WithRequestTimeout(requestTimeout))
	g := &Grains{cluster: cluster.New(pactor.NewActorSystem(quiet()), config)}
	g.cluster.StartMember()
	return g
}

// Add adds delta and returns the new value.
func (g *Grains) Add(key string, delta int64) (int64, error) {
	data, err := proto.Marshal(&quernv1.CounterServiceAddRequest{Delta: &delta})
	if err != nil {
		return 0, err
	}
	reply, err := g.cluster.Request(key, grainKind, &cluster.GrainRequest{MethodIndex: grainAdd, MessageData: data})
	if err != nil {
		return 0, err
	}
	added, ok := reply.(*quernv1.CounterServiceAddResponse)
	if !ok {
		return 0, fmt.Errorf("peers: the grain answered %T: %v", reply, reply)
	}
	return added.GetValue(), nil
}

// Close ends the member. The library's graceful shutdown would wait two seconds
// more for nobody.
func (g *Grains) Close() { g.cluster.Shutdown(false) }

// quiet keeps the library's log out of the figures.
func quiet() pactor.ConfigOption {
	return pactor.WithLoggerFactory(func(*pactor.ActorSystem) *slog.Logger {
		return slog.New(slog.DiscardHandler)
	})
}
