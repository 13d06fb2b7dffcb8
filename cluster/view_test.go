package cluster_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/cluster"
)

func TestRecordFit(t *testing.T) {
	t.Parallel()
	record := cluster.Record{ClusterID: [16]byte{1}, Shards: 256, LockDelay: 2 * time.Second, Base: 9, Format: 1, Protocol: 1}
	tests := []struct {
		name string
		own  cluster.Record
		want string // in the error, empty for none
	}{
		{"the same", record, ""},
		{"nothing of its own", cluster.Record{}, ""},
		{"another delay and base", cluster.Record{LockDelay: time.Second, Base: 99}, ""},
		{"other shards", cluster.Record{Shards: 128}, "number of shards is 256, this node has 128"},
		{"another id", cluster.Record{ClusterID: [16]byte{2}}, "id is 01000000-0000-0000-0000-000000000000, this node has 02"},
		{"another format", cluster.Record{Format: 2}, "format is 1, this node has 2"},
		{"another protocol", cluster.Record{Protocol: 3, Shards: 128}, "protocol is 1, this node has 3"},
	}
	for _, test := range tests {
		err := record.Fit(test.own)
		if test.want == "" {
			if err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if !errors.Is(err, cluster.ErrRecord) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func TestRecordComplete(t *testing.T) {
	t.Parallel()
	got, err := cluster.Record{Base: 7}.Complete()
	if err != nil || got.ClusterID == [16]byte{} {
		t.Fatalf("%+v, %v", got, err)
	}
	want := cluster.Record{ClusterID: got.ClusterID, Shards: 256, LockDelay: 2 * time.Second, Base: 7, Format: 1, Protocol: 1}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, bad := range []cluster.Record{
		{Shards: 3},
		{LockDelay: 999 * time.Millisecond},
		{LockDelay: 61 * time.Second},
		{LockDelay: time.Second + time.Microsecond},
	} {
		if _, err := bad.Complete(); !errors.Is(err, cluster.ErrRecord) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

func TestBaseEpoch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		now     int64
		highest uint64
		want    uint64
	}{{100, 7, 100}, {100, 700, 700}, {-5, 0, 0}} {
		if got := cluster.BaseEpoch(time.Unix(test.now, 0), test.highest); got != test.want {
			t.Errorf("at %d, highest %d: %d, want %d", test.now, test.highest, got, test.want)
		}
	}
}

func TestTableLock(t *testing.T) {
	t.Parallel()
	table := cluster.Table{Locks: []cluster.ShardLock{{Shard: 1, Index: 5}, {Shard: 7, Index: 6}}}
	for shard, want := range map[uint32]uint64{0: 0, 1: 5, 2: 0, 7: 6, 8: 0} {
		if got, found := table.Lock(shard); got.Index != want || found != (want != 0) {
			t.Errorf("shard %d: %+v, %v", shard, got, found)
		}
	}
}

func TestIncarnation(t *testing.T) {
	t.Parallel()
	one, two := cluster.NewIncarnation(), cluster.NewIncarnation()
	if one == two {
		t.Errorf("drawn twice: %v", one)
	}
	if back, err := cluster.ParseIncarnation(one.String()); back != one || err != nil {
		t.Errorf("%v reads as %v, %v", one, back, err)
	}
	if _, err := cluster.ParseIncarnation("me"); err == nil {
		t.Error("me is an incarnation")
	}
}
