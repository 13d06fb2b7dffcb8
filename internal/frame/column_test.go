package frame_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/failure"
	"github.com/quern-io/quern/internal/frame"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// columnOf is a column with parts of 1, 2, and so on keys.
func columnOf(parts, keyBytes int, deltas bool) *quernv1.StreamColumn {
	c := &quernv1.StreamColumn{Id: 1 << 40, Method: 3, TimeoutMs: 1000}
	for i := range parts {
		c.Shards, c.Counts = append(c.Shards, uint32(i*300)), append(c.Counts, uint32(i+1))
		c.Numbers, c.Settled = append(c.Numbers, uint64(i)<<20+1), append(c.Settled, uint64(i)<<20)
		c.SettledOther = append(c.SettledOther, uint64(i))
		for range i + 1 {
			c.Keys = append(c.Keys, strings.Repeat("k", keyBytes)+strconv.Itoa(len(c.GetKeys())))
			if deltas {
				c.Deltas = append(c.Deltas, int64(len(c.GetKeys()))<<30*int64(1-2*(i%2)))
			}
		}
	}
	return c
}

// write writes a column by hand.
func write(c *quernv1.StreamColumn) []byte {
	var w frame.ColumnWriter
	key := 0
	for i, n := range c.GetCounts() {
		w.Part(&frame.ColumnPart{
			Shard: c.GetShards()[i], Count: n, Number: c.GetNumbers()[i], Settled: c.GetSettled()[i], SettledOther: c.GetSettledOther()[i],
		})
		for range n {
			w.Key(c.GetKeys()[key])
			if len(c.GetDeltas()) > 0 {
				w.Delta(c.GetDeltas()[key])
			}
			key++
		}
	}
	return w.Append(nil, c.GetId(), c.GetMethod(), c.GetTimeoutMs())
}

// message is the message that a column stands for.
func message(c *frame.Column) *quernv1.StreamColumn {
	m := &quernv1.StreamColumn{Id: c.ID, Method: c.Method, TimeoutMs: c.TimeoutMS, Deltas: c.Deltas}
	for _, p := range c.Parts {
		m.Shards, m.Counts = append(m.Shards, p.Shard), append(m.Counts, p.Count)
		m.Numbers, m.Settled, m.SettledOther = append(m.Numbers, p.Number), append(m.Settled, p.Settled), append(m.SettledOther, p.SettledOther)
	}
	for _, s := range c.Spans {
		m.Keys = append(m.Keys, string(s.Of(c.Text)))
	}
	return m
}

// first returns the first column of a frame.
func first(t *testing.T, b []byte) []byte {
	t.Helper()
	var m quernv1.GrainServiceStreamRequest
	if err := proto.Unmarshal(b, &m); err != nil || len(m.GetColumns()) != 1 {
		t.Fatal(err, len(m.GetColumns()))
	}
	column, err := proto.Marshal(m.GetColumns()[0])
	if err != nil {
		t.Fatal(err)
	}
	return column
}

func TestColumnIsProtobuf(t *testing.T) {
	t.Parallel()
	var again frame.Column // used again, for all of them
	for _, parts := range []int{40, 1, 3} {
		for _, keyBytes := range []int{1, 124, 500} {
			for _, deltas := range []bool{true, false} {
				want := columnOf(parts, keyBytes, deltas)
				b := write(want)
				var r requests
				if err := frame.ReadRequest(b, &r); err != nil || len(r.m.GetColumns()) != 1 || !proto.Equal(r.m.GetColumns()[0], zeros(want)) {
					t.Errorf("%d parts, keys of %d bytes: written %v, %v", parts, keyBytes, r.m.GetColumns(), err)
				}
				if err := frame.ReadColumn(first(t, b), &again); err != nil || !proto.Equal(message(&again), want) {
					t.Errorf("%d parts, keys of %d bytes: read %v, %v", parts, keyBytes, message(&again), err)
				}
			}
		}
	}
}

// zeros is a column as it is written: what is 0 everywhere is left out.
func zeros(c *quernv1.StreamColumn) *quernv1.StreamColumn {
	c = proto.CloneOf(c)
	if slices.Max(c.GetSettledOther()) == 0 {
		c.SettledOther = nil
	}
	return c
}

func TestColumnsThatDoNotFit(t *testing.T) {
	t.Parallel()
	many := make([]uint32, frame.MaxColumnParts+1)
	for i := range many {
		many[i] = 1
	}
	for name, spoil := range map[string]func(*quernv1.StreamColumn){
		"no id":            func(c *quernv1.StreamColumn) { c.Id = 0 },
		"no parts":         func(c *quernv1.StreamColumn) { *c = quernv1.StreamColumn{Id: 1} },
		"fewer shards":     func(c *quernv1.StreamColumn) { c.Shards = c.Shards[1:] },
		"no shards":        func(c *quernv1.StreamColumn) { c.Shards = nil },
		"more counts":      func(c *quernv1.StreamColumn) { c.Counts = append(c.Counts, 1) },
		"a part of none":   func(c *quernv1.StreamColumn) { c.Counts[0], c.Counts[1] = 0, 3 },
		"a count too high": func(c *quernv1.StreamColumn) { c.Counts[0] = 1<<32 - 1 },
		"fewer numbers":    func(c *quernv1.StreamColumn) { c.Numbers = c.Numbers[1:] },
		"more settled":     func(c *quernv1.StreamColumn) { c.Settled = append(c.Settled, 1) },
		"more of others":   func(c *quernv1.StreamColumn) { c.SettledOther = append(c.SettledOther, 1) },
		"fewer keys":       func(c *quernv1.StreamColumn) { c.Keys = c.Keys[1:] },
		"fewer deltas":     func(c *quernv1.StreamColumn) { c.Deltas = c.Deltas[1:] },
		"too many parts":   func(c *quernv1.StreamColumn) { c.Shards = many },
		"too many keys":    func(c *quernv1.StreamColumn) { c.Keys = make([]string, frame.MaxColumnKeys+1) },
		"too many deltas":  func(c *quernv1.StreamColumn) { c.Deltas = make([]int64, frame.MaxColumnKeys+1) },
	} {
		c := columnOf(3, 3, true)
		spoil(c)
		b, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if err := frame.ReadColumn(b, new(frame.Column)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	var c frame.Column
	none := columnOf(3, 3, false)
	none.Numbers, none.Settled, none.SettledOther = nil, nil, nil
	b, err := proto.Marshal(none)
	if err != nil {
		t.Fatal(err)
	}
	if err := frame.ReadColumn(b, &c); err != nil || c.Parts[2].Number != 0 || c.Deltas != nil {
		t.Errorf("outside of sessions: %v, %v", c, err)
	}
}

func TestColumnReplyIsProtobuf(t *testing.T) {
	t.Parallel()
	busy := failure.New(failure.Overloaded, "busy")
	replies := [][]byte{[]byte("one"), nil, []byte(strings.Repeat("3", 300)), nil, {}}
	errs := []*failure.Error{nil, busy, nil, failure.New(failure.OutcomeUnknown, "who knows"), nil}
	want := &quernv1.StreamColumnReply{Id: 7, Replies: replies, Errors: []*quernv1.StreamPartError{
		{Part: 1, Error: streamError(busy)}, {Part: 3, Error: streamError(errs[3])},
	}}
	b := frame.AppendColumnReply(nil, 7, len(replies), func(i int) ([]byte, *failure.Error) { return replies[i], errs[i] })
	var r responses
	if err := frame.ReadResponse(b, &r); err != nil || len(r.m.GetColumns()) != 1 || !proto.Equal(r.m.GetColumns()[0], want) {
		t.Fatalf("got %v, %v, want %v", r.m.GetColumns(), err, want)
	}
	encoded, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got frame.ColumnReply
	for range 2 {
		if err := frame.ReadColumnReply(encoded, &got); err != nil || got.ID != 7 || len(got.Replies) != 5 || len(got.Errors) != 2 {
			t.Fatalf("got %v, %v", got, err)
		}
		for i, reply := range replies {
			if !slices.Equal(got.Replies[i], reply) {
				t.Errorf("reply %d: %q", i, got.Replies[i])
			}
		}
		for i, part := range []int{1, 3} {
			if e := got.Errors[i]; e.Part != part || e.Err.Reason != errs[part].Reason {
				t.Errorf("error %d: %v", i, e)
			}
		}
	}
	want.Errors[1].Part = 5
	if encoded, err = proto.Marshal(want); err != nil {
		t.Fatal(err)
	}
	if err := frame.ReadColumnReply(encoded, &got); err == nil {
		t.Error("an error of no part was taken")
	}
}

// FuzzReadColumn: whatever package proto takes is read by hand as the same, or
// does not fit.
func FuzzReadColumn(f *testing.F) {
	for _, parts := range []int{1, 5} {
		b, err := proto.Marshal(columnOf(parts, 5, true))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0x08, 1, 0x18, 1, 0x20, 1, 0x42, 1, 'k'}) // not packed
	f.Fuzz(func(t *testing.T, b []byte) {
		var (
			want quernv1.StreamColumn
			c    frame.Column
		)
		if err := frame.ReadColumn(b, &c); err != nil || proto.Unmarshal(b, &want) != nil {
			return
		}
		got := message(&c)
		for _, list := range []struct{ mine, its *[]uint64 }{
			{&got.Numbers, &want.Numbers}, {&got.Settled, &want.Settled}, {&got.SettledOther, &want.SettledOther},
		} {
			if len(*list.its) == 0 && slices.Max(*list.mine) == 0 {
				*list.mine = nil
			}
		}
		want.ProtoReflect().SetUnknown(nil)
		if !proto.Equal(got, &want) {
			t.Fatalf("got %v, want %v", got, &want)
		}
	})
}

// FuzzReadColumnReply: no bytes from a node may panic a client, or tell of parts
// that there are none of.
func FuzzReadColumnReply(f *testing.F) {
	b, err := proto.Marshal(&quernv1.StreamColumnReply{
		Id: 1, Replies: [][]byte{nil, []byte("x")}, Errors: []*quernv1.StreamPartError{{Part: 1, Error: &quernv1.StreamError{Reason: "LIMIT"}}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var r frame.ColumnReply
		if err := frame.ReadColumnReply(b, &r); err != nil {
			return
		}
		for _, e := range r.Errors {
			if e.Err == nil || e.Part < 0 || e.Part >= len(r.Replies) {
				t.Fatalf("%d parts, an error of %d: %v", len(r.Replies), e.Part, e.Err)
			}
		}
	})
}
