package embedded

import (
	"context"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/quern-io/quern/actors"
)

func TestSmoke(t *testing.T) {
	ctx := context.Background()
	for _, fs := range []vfs.FS{vfs.NewCrashableMem(), vfs.Default} {
		dir := t.TempDir()
		if fs != vfs.Default {
			dir = "/data"
		}
		o := Options{Dir: dir, FS: fs, Shards: 4, TailBytes: 4 << 10}
		for round := range 3 {
			s, err := Open(ctx, o)
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.Raise(ctx, []actors.Raise{{Shard: 1, Epoch: uint64(round + 1)}})
			if err != nil || !r[0].OK {
				t.Fatal(r, err)
			}
			for i := range 500 {
				v := s.Commit(ctx, []actors.Batch{{Shard: 1, Epoch: uint64(round + 1), Records: []actors.Record{
					{Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Appendf(nil, "v%d-%d", round, i)},
				}}})
				if v[0].Err != nil {
					t.Fatal(v[0].Err)
				}
			}
			n := 0
			if err := s.Scan(ctx, 1, nil, nil, func(k, v []byte) bool { n++; return true }); err != nil || n != 500 {
				t.Fatal(n, err)
			}
			if err := s.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}
