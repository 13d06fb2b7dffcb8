package memory_test

import (
	"testing"

	"github.com/quern-io/quern/actors"
	"github.com/quern-io/quern/storage/memory"
)

// TestWritten: states carry the epoch that wrote them, also where nothing was to
// be written but that they are of that epoch; dropped ones carry none.
func TestWritten(t *testing.T) {
	t.Parallel()
	id := [16]byte{7}
	s := memory.NewIn(id, 4)
	if info := s.Info(); info.ClusterID != id || info.Shards != 4 {
		t.Errorf("info %+v", info)
	}
	want := func(epoch uint64, records int) {
		t.Helper()
		n := 0
		if err := s.Scan(t.Context(), 1, nil, nil, func(_, _ []byte) bool { n++; return true }); err != nil {
			t.Error(err)
		}
		if got := s.Written(1); got != epoch || n != records {
			t.Errorf("written under %d, %d records; want %d, %d", got, n, epoch, records)
		}
	}
	raise := func(epoch uint64) {
		t.Helper()
		if r, err := s.Raise(t.Context(), []actors.Raise{{Shard: 1, Epoch: epoch}}); err != nil || !r[0].OK {
			t.Fatal(r, err)
		}
	}
	commit := func(epoch uint64, want actors.Status, records ...actors.Record) {
		t.Helper()
		if v := s.Commit(t.Context(), []actors.Batch{{Shard: 1, Epoch: epoch, Records: records}}); v[0].Status != want {
			t.Errorf("commit under %d: %+v", epoch, v)
		}
	}
	raise(3)
	want(0, 0)
	commit(3, actors.Done, actors.Record{Key: []byte("k"), Value: []byte("v")})
	raise(5)
	want(3, 1)
	commit(3, actors.Fenced, actors.Record{Key: []byte("l")})
	want(3, 1)
	commit(5, actors.Done)
	want(5, 1)
	s.Empty(1)
	want(0, 0)
	commit(5, actors.Done, actors.Record{Key: []byte("k")})
	want(5, 1)
	if s.Written(0) != 0 {
		t.Error("another shard")
	}
}
