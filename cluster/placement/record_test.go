package placement_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/quern-io/quern/cluster/placement"
	clusterv1 "github.com/quern-io/quern/messages/quern/cluster/v1"
)

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, c := range []*cluster{newCluster(256, 0), newCluster(256, 3), newCluster(8, 20), newCluster(65536, 1000)} {
		b, err := c.record.Encode()
		if err != nil {
			t.Fatal(err)
		}
		// Consul takes values of up to 512 KiB.
		if len(b) > 512<<10 {
			t.Errorf("%d shards take %d bytes", c.record.Shards(), len(b))
		}
		r, err := placement.Decode(b, c.record.Shards())
		if err != nil {
			t.Fatal(err)
		}
		if r.Version() != c.record.Version() || len(moved(r, c.record)) > 0 {
			t.Error("a record that was read is another")
		}
		if r.Next(c.members) != r {
			t.Error("a record that was read leads elsewhere")
		}
	}
	if _, err := placement.New(1).Next([]placement.Member{{Name: "\xff"}}).Encode(); err == nil {
		t.Error("a name that is not UTF-8 was written")
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(m *clusterv1.PlacementRecord)
		want  error
		says  string
	}{
		"unknown format":        {func(m *clusterv1.PlacementRecord) { m.Format = 2 }, placement.ErrFormat, "it is 2"},
		"no format":             {func(m *clusterv1.PlacementRecord) { m.Format = 0 }, placement.ErrFormat, "it is 0"},
		"unknown in all":        {func(m *clusterv1.PlacementRecord) { m.Format, m.Shards, m.Owners = 9, 0, nil }, placement.ErrFormat, ""},
		"other shards":          {func(m *clusterv1.PlacementRecord) { m.Shards = 8 }, placement.ErrShards, "it has 8, this node 4"},
		"too few owners":        {func(m *clusterv1.PlacementRecord) { m.Owners = m.Owners[1:] }, placement.ErrDamaged, "3 shards of 4"},
		"too many owners":       {func(m *clusterv1.PlacementRecord) { m.Owners = append(m.Owners, 1) }, placement.ErrDamaged, ""},
		"owner out of range":    {func(m *clusterv1.PlacementRecord) { m.Owners[2] = 3 }, placement.ErrDamaged, "shard 2 is on node 3 of 2"},
		"owner far out":         {func(m *clusterv1.PlacementRecord) { m.Owners[2] = 1<<32 - 1 }, placement.ErrDamaged, ""},
		"empty name":            {func(m *clusterv1.PlacementRecord) { m.Nodes[0] = "" }, placement.ErrDamaged, ""},
		"names out of order":    {func(m *clusterv1.PlacementRecord) { m.Nodes[0], m.Nodes[1] = m.Nodes[1], m.Nodes[0] }, placement.ErrDamaged, ""},
		"a name twice":          {func(m *clusterv1.PlacementRecord) { m.Nodes[1] = m.Nodes[0] }, placement.ErrDamaged, ""},
		"a node without shards": {func(m *clusterv1.PlacementRecord) { m.Nodes = append(m.Nodes, "z") }, placement.ErrDamaged, `"z"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &clusterv1.PlacementRecord{Format: 1, Version: 7, Shards: 4, Nodes: []string{"a", "b"}, Owners: []uint32{1, 2, 0, 1}}
			c.spoil(m)
			b, err := proto.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := placement.Decode(b, 4); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
	if _, err := placement.Decode([]byte{0xff}, 4); !errors.Is(err, placement.ErrDamaged) {
		t.Errorf("bytes: %v", err)
	}
}

// FuzzDecode: what is taken can be used, and is written as it was read.
func FuzzDecode(f *testing.F) {
	for _, c := range []*cluster{newCluster(8, 0), newCluster(8, 3), newCluster(8, 20)} {
		b, err := c.record.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := placement.Decode(b, 8)
		if err != nil {
			return
		}
		first, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := placement.Decode(first, 8)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := again.Encode(); err != nil || !bytes.Equal(first, second) {
			t.Errorf("%x became %x: %v", first, second, err)
		}
		members := []placement.Member{{Name: "a"}, {Name: "node-1"}, {Name: "c", Cordoned: true}}
		if wrong := judge(r, r.Next(members), nil, members); wrong != "" {
			t.Error(wrong)
		}
	})
}
