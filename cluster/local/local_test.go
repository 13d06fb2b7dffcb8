package local_test

import (
	"testing"
	"time"

	"github.com/quern-io/quern/cluster"
	"github.com/quern-io/quern/cluster/local"
)

func TestLocalClaims(t *testing.T) {
	t.Parallel()
	claims := local.Claims(8, time.Unix(1000, 0))
	if len(claims) != 8 || claims[7] != (cluster.Claim{Shard: 7, Epoch: 1001}) {
		t.Errorf("got %v", claims)
	}
	if got := local.Claims(1, time.Unix(-5, 0)); got[0].Epoch != 1 {
		t.Errorf("before 1970: %v", got)
	}
}
