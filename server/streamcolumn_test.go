package server_test

import (
	"math"
	"runtime"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
	"github.com/quern-io/quern/server"
)

// adding is a backend that takes adds. The value of a key is its length.
type adding struct {
	fake

	mu sync.Mutex
	// hold lets adds wait for release; held are those that do. Guarded by mu.
	hold bool
	held []*handles.Adds
	more chan struct{}
}

func newAdding(hold bool) *adding { return &adding{hold: hold, more: make(chan struct{}, 1<<20)} }

// SubmitAdds implements handles.AddsSubmitter.
func (b *adding) SubmitAdds(a *handles.Adds) {
	b.calls.Add(1)
	a.Origin.Node = origin.Node
	b.mu.Lock()
	hold := b.hold
	if hold {
		b.held = append(b.held, a)
	}
	b.mu.Unlock()
	if hold {
		b.more <- struct{}{}
		return
	}
	b.answer(a)
}

// release answers n adds, the last ones first.
func (b *adding) release(n int) {
	for range n {
		<-b.more
	}
	b.mu.Lock()
	held := b.held[:n]
	b.held = b.held[n:]
	b.mu.Unlock()
	for i := range held {
		b.answer(held[len(held)-1-i])
	}
}

func (b *adding) answer(a *handles.Adds) {
	var reply quernv1.CounterServiceAddManyResponse
	for i, s := range a.Spans {
		delta := int64(1)
		if a.Deltas != nil {
			delta = a.Deltas[i]
		}
		if string(s.Of(a.Text)) == "busy" {
			a.Done.Completed(0, failure.New(failure.Overloaded, "busy"))
			return
		}
		reply.Values = append(reply.Values, int64(len(s.Of(a.Text)))*delta)
	}
	a.Result, _ = proto.MarshalOptions{}.MarshalAppend(a.Result[:0], &reply)
	a.Done.Completed(origin.Epoch, nil)
}

// columnTalk is a talk of columns.
type columnTalk struct {
	*talk

	heard []*quernv1.StreamColumnReply
}

// converseMany is a talk that has the method AddMany as 2.
func converseMany(t *testing.T, converse converser, b server.Backend, change ...func(*server.Config)) *columnTalk {
	t.Helper()
	k := &columnTalk{talk: converse(t, start(t, b, change...))}
	k.say(&quernv1.GrainServiceStreamRequest{Methods: []*quernv1.StreamMethod{{Ref: 2, Procedure: handles.CounterAddMany.Procedure}}})
	return k
}

// column has a part of one key for each key, at shards 0, 1 and so on.
func column(id uint64, keys ...string) *quernv1.StreamColumn {
	c := &quernv1.StreamColumn{Id: id, Method: 2, Keys: keys}
	for i := range keys {
		c.Shards, c.Counts = append(c.Shards, uint32(i)), append(c.Counts, 1)
	}
	return c
}

func columns(all ...*quernv1.StreamColumn) *quernv1.GrainServiceStreamRequest {
	return &quernv1.GrainServiceStreamRequest{Columns: all}
}

// hearColumn returns the next answer to a column, with the reasons of its parts
// and their values.
func (k *columnTalk) hearColumn() (id uint64, reasons []string, values [][]int64) {
	k.t.Helper()
	for len(k.heard) == 0 {
		k.heard = k.hear().GetColumns()
	}
	r := k.heard[0]
	k.heard = k.heard[1:]
	reasons = make([]string, len(r.GetReplies()))
	for _, b := range r.GetReplies() {
		var m quernv1.CounterServiceAddManyResponse
		if err := proto.Unmarshal(b, &m); err != nil {
			k.t.Fatal(err)
		}
		values = append(values, m.GetValues())
	}
	for _, e := range r.GetErrors() {
		reasons[e.GetPart()] = e.GetError().GetReason()
	}
	return r.GetId(), reasons, values
}

func TestStreamColumns(t *testing.T) { overBoth(t, streamColumns) }

func streamColumns(t *testing.T, converse converser) {
	t.Helper()
	b := newAdding(true)
	k := converseMany(t, converse, b)
	if !k.hello.GetColumns() {
		t.Error("the hello takes no columns")
	}
	c := column(9, "a", "bb", "ccc", "busy", "eeeee")
	c.Counts, c.Shards = []uint32{2, 1, 2}, []uint32{3, 200, 3}
	c.Deltas = []int64{1, -1, 2, 1, 1}
	k.say(columns(c))
	b.release(3)
	id, reasons, values := k.hearColumn()
	if id != 9 || len(reasons) != 3 || reasons[0] != "" || reasons[1] != "" || reasons[2] != "OVERLOADED" {
		t.Errorf("column %d: %v", id, reasons)
	}
	if v := values; len(v) != 3 || len(v[0]) != 2 || v[0][0] != 1 || v[0][1] != -2 || len(v[1]) != 1 || v[1][0] != 6 || len(v[2]) != 0 {
		t.Errorf("values %v", v)
	}
	b.mu.Lock()
	b.hold = false
	b.mu.Unlock()
	k.say(columns(column(1, "a"), column(2, "bb"))) // memory is used again
	for want := uint64(1); want <= 2; want++ {
		if id, _, values := k.hearColumn(); id == 0 || len(values) == 0 {
			t.Errorf("column %d: %v", id, values)
		}
	}
}

func TestStreamRefusesColumns(t *testing.T) { overBoth(t, streamRefusesColumns) }

func streamRefusesColumns(t *testing.T, converse converser) {
	t.Helper()
	for name, row := range map[string]struct {
		backend server.Backend
		change  func(*quernv1.StreamColumn)
		want    string
	}{
		"unknown method":   {newAdding(false), func(c *quernv1.StreamColumn) { c.Method = 77 }, "UNKNOWN_METHOD"},
		"another method":   {newAdding(false), func(c *quernv1.StreamColumn) { c.Method = 1 }, "UNKNOWN_METHOD"},
		"no columns":       {&fake{}, func(*quernv1.StreamColumn) {}, "UNKNOWN_METHOD"},
		"no such shard":    {newAdding(false), func(c *quernv1.StreamColumn) { c.Shards[0] = 1 << 31 }, "INVALID_FIELD"},
		"no named session": {newAdding(false), func(c *quernv1.StreamColumn) { c.Numbers = []uint64{1, 0} }, "SESSION_EXPIRED"},
	} {
		k := converseMany(t, converse, row.backend)
		c := column(5, "a", "b")
		row.change(c)
		k.say(columns(c))
		if id, reasons, _ := k.hearColumn(); id != 5 || len(reasons) != 2 || reasons[0] != row.want {
			t.Errorf("%s: %d, %v", name, id, reasons)
		}
		k.say(&quernv1.GrainServiceStreamRequest{Ping: 3}) // the stream goes on
		if m := k.hear(); m.GetPong() != 3 {
			t.Errorf("%s: %v", name, m)
		}
	}
	spoilt := column(1, "a", "b")
	spoilt.Counts[0] = 2
	k := converseMany(t, converse, newAdding(false))
	k.say(columns(spoilt))
	if got := k.reason(); got != failure.InvalidField {
		t.Errorf("lists that do not fit: %v", got)
	}
}

// TestStreamColumnsAreBounded: by the gate as one call, by the window with each
// of their parts.
func TestStreamColumnsAreBounded(t *testing.T) { overBoth(t, streamColumnsAreBounded) }

func streamColumnsAreBounded(t *testing.T, converse converser) {
	t.Helper()
	keys := make([]string, 100)
	for i := range keys {
		keys[i] = "k"
	}
	b := newAdding(true)
	k := converseMany(t, converse, b, func(c *server.Config) { c.MaxInFlight = 2 })
	k.say(columns(column(1, "a", "b"), column(2, "c"), column(3, "d", "e")))
	if id, reasons, _ := k.hearColumn(); id != 3 || reasons[0] != "OVERLOADED" || reasons[1] != "OVERLOADED" {
		t.Errorf("%d: %v", id, reasons)
	}
	b.release(3)
	for range 2 {
		if id, reasons, _ := k.hearColumn(); id != 1 && id != 2 || reasons[0] != "" {
			t.Errorf("%d: %v", id, reasons)
		}
	}

	b = newAdding(true)
	k = converseMany(t, converse, b)
	most := (int(k.hello.GetWindow()) + 2*int(k.hello.GetShards())) / len(keys) // with what sessions may take
	for id := range most + 1 {
		k.say(columns(column(uint64(id)+1, keys...)))
	}
	if got := k.reason(); got != failure.Overloaded {
		t.Errorf("past the window: %v", got)
	}
	b.release(most * len(keys)) // of whom nobody hears
}

// TestColumnOfNoShard: the number of a shard that there is not takes no memory,
// however high it is.
func TestColumnOfNoShard(t *testing.T) { //nolint:paralleltest // counts memory
	k := converseMany(t, func(t *testing.T, s *server.Server) *talk {
		t.Helper()
		return converse(t, overFrames(t, s))
	}, newAdding(false))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c := column(1, "a")
	c.Shards[0] = math.MaxUint32
	k.say(columns(c))
	if _, reasons, _ := k.hearColumn(); len(reasons) != 1 || reasons[0] != failure.InvalidField.String() {
		t.Errorf("got %q", reasons)
	}
	runtime.ReadMemStats(&after)
	if taken := after.TotalAlloc - before.TotalAlloc; taken > 32<<20 {
		t.Errorf("it took %d MiB", taken>>20)
	}
}
