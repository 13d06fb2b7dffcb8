package wire_test

import (
	"testing"

	"github.com/quern-io/quern/internal/wire"
)

func TestIdentity(t *testing.T) {
	t.Parallel()
	for want, identity := range map[string]string{
		`the node "a" of the cluster 0102`: wire.Identity([]byte{1, 2}, "a"),
		`the lone node "a"`:                wire.Identity(nil, "a"),
		`the lone node ""`:                 wire.Identity(nil, ""),
		"nobody":                           "",
	} {
		if got := wire.Describe(identity); got != want {
			t.Errorf("%q is %q, want %q", identity, got, want)
		}
	}
	if got := wire.Describe("\x05abc"); got != "nobody" {
		t.Errorf("a part of an identity is %q", got)
	}
	if wire.Identity([]byte("ab"), "c") == wire.Identity([]byte("a"), "bc") {
		t.Error("two nodes have one identity")
	}
}
