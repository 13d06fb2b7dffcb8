package quern_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/quern-io/quern"
	"github.com/quern-io/quern/handles"
)

// BenchmarkLock is a lock that is taken and given back, on a node in the
// process: each caller its own, and one for which 64 callers wait.
func BenchmarkLock(b *testing.B) {
	for name, key := range map[string]func(int) string{
		"own":       func(i int) string { return "k" + strconv.Itoa(i) },
		"contended": func(int) string { return "k" },
	} {
		b.Run(name, func(b *testing.B) {
			node, err := quern.Open(b.Context(), quern.Config{Store: quern.StoreMemory})
			if err != nil {
				b.Fatal(err)
			}
			defer node.Close(context.Background())
			b.ReportAllocs()
			b.ResetTimer()
			var all sync.WaitGroup
			const callers = 64
			for i := range callers {
				all.Go(func() {
					lock, owner := node.Lock(key(i)), strconv.Itoa(i)
					for n := i; n < b.N; n += callers {
						g, err := lock.Grant(context.Background(), handles.LockOptions{Owner: owner, TTL: time.Minute, Wait: time.Minute})
						if err != nil || !g.Held {
							b.Error(g, err)
							return
						}
						if err := lock.Release(context.Background(), g.Token); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
		})
	}
}
