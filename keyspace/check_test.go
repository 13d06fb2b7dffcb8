package keyspace_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/quern-io/quern/keyspace"
)

// TestCheckSeesEveryByte: a key is taken exactly where it is UTF-8, whatever its
// length and wherever the odd byte stands.
func TestCheckSeesEveryByte(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 40; n++ {
		for at := range n {
			for _, odd := range []string{"a", "\x80", "\xff", "é", "\x7f", "\x00"} {
				key := strings.Repeat("k", at) + odd + strings.Repeat("k", n-at-1)
				if taken := keyspace.Check(key) == nil; taken != utf8.ValidString(key) {
					t.Fatalf("Check(%q): taken %v", key, taken)
				}
			}
		}
	}
}
