package consul

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/quern-io/quern/cluster"
)

func TestLockValue(t *testing.T) {
	t.Parallel()
	owner, receiver := cluster.Incarnation{1}, cluster.Incarnation{2}
	tests := []struct {
		value cluster.LockValue
		text  string
	}{
		{cluster.LockValue{}, `{"epoch":"0"}`},
		{
			cluster.LockValue{Epoch: 1<<64 - 1, Owner: owner},
			`{"epoch":"18446744073709551615","owner":"01000000-0000-0000-0000-000000000000"}`,
		},
		{
			cluster.LockValue{Epoch: 7, Owner: owner, Clean: cluster.CleanRelease{Receiver: receiver, Handoff: cluster.HandoffID{3}}},
			`{"epoch":"7","owner":"01000000-0000-0000-0000-000000000000",` +
				`"clean":{"receiver":"02000000-0000-0000-0000-000000000000","handoff":"03000000-0000-0000-0000-000000000000"}}`,
		},
	}
	for _, test := range tests {
		text, err := encodeLock(test.value)
		if err != nil || string(text) != test.text {
			t.Errorf("%+v is written as %s, %v", test.value, text, err)
		}
		if back, err := decodeLock([]byte(test.text)); err != nil || back != test.value {
			t.Errorf("%s reads as %+v, %v", test.text, back, err)
		}
	}
	for _, bad := range []string{
		``, `null`, `{}`, `{"epoch":7}`, `{"epoch":"-1"}`, `{"epoch":"18446744073709551616"}`, `[]`,
		`{"epoch":"7","owner":"me"}`, `{"epoch":"7","clean":{"receiver":"x"}}`, `{"epoch":"7","clean":{"handoff":"x"}}`,
	} {
		if v, err := decodeLock([]byte(bad)); err == nil {
			t.Errorf("%s reads as %+v", bad, v)
		}
	}
	if v, err := decodeLock([]byte(`{"epoch":"7","later":{"x":1}}`)); err != nil || v.Epoch != 7 {
		t.Errorf("a field of a newer version: %+v, %v", v, err)
	}
}

func TestRecordValue(t *testing.T) {
	t.Parallel()
	record := cluster.Record{
		ClusterID: [16]byte{1}, Store: "memory", Shards: 64, LockDelay: 1500 * time.Millisecond, Base: 1<<63 + 1, Format: 1, Protocol: 2,
	}
	const want = `{"format":1,"protocol":2,"cluster_id":"01000000-0000-0000-0000-000000000000","store":"memory","shards":64,` +
		`"lock_delay_ms":1500,"base_epoch":"9223372036854775809"}`
	text, err := encodeRecord(record)
	if err != nil || string(text) != want {
		t.Fatalf("written as %s, %v", text, err)
	}
	if back, err := decodeRecord(text); err != nil || back != record {
		t.Errorf("reads as %+v, %v", back, err)
	}
	for _, change := range []struct{ from, to string }{
		{`"format":1`, `"format":0`},
		{`"protocol":2`, `"protocol":0`},
		{`"shards":64`, `"shards":65`},
		{`"shards":64,`, ``},
		{`"lock_delay_ms":1500,`, ``},
		{`1500`, `-5`},
		{`1500`, `60001`},
		{`1500`, `9223372036854775807`},
		{`01000000`, `00000000`},
		{`"cluster_id":"0`, `"cluster_id":"x`},
		{`"9223`, `"-9223`},
		{`}`, ``},
	} {
		bad := strings.Replace(want, change.from, change.to, 1)
		if r, err := decodeRecord([]byte(bad)); !errors.Is(err, cluster.ErrRecord) {
			t.Errorf("%s reads as %+v, %v", bad, r, err)
		}
	}
	newer, err := decodeRecord([]byte(`{"format":2,"parts":3}`))
	if err != nil {
		t.Fatalf("a newer format does not read: %v", err)
	}
	if err := newer.Fit(cluster.Record{Format: 1}); err == nil || !strings.Contains(err.Error(), "format is 2") {
		t.Errorf("a newer format: %v", err)
	}
}

func TestShardKeys(t *testing.T) {
	t.Parallel()
	k := keys("quern/c/")
	for _, shard := range []uint32{0, 42, 65535} {
		if back, ok := k.parseShard(k.shard(shard)); !ok || back != shard {
			t.Errorf("%s reads as %d, %v", k.shard(shard), back, ok)
		}
	}
	for _, other := range []string{"quern/c/shards/", "quern/c/shards/1", "quern/c/shards/000001", "quern/c/shards/-0001", "quern/d/shards/00001"} {
		if shard, ok := k.parseShard(other); ok {
			t.Errorf("%s reads as %d", other, shard)
		}
	}
}

func FuzzValues(f *testing.F) {
	f.Add([]byte(`{"epoch":"7","owner":"01000000-0000-0000-0000-000000000000","clean":{"receiver":"","handoff":""}}`))
	f.Add([]byte(`{"format":1,"protocol":2,"cluster_id":"01000000-0000-0000-0000-000000000000","shards":64,"lock_delay_ms":1500,"base_epoch":"9"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if v, err := decodeLock(data); err == nil {
			again(t, v, encodeLock, decodeLock)
		}
		if r, err := decodeRecord(data); err == nil && r.Format <= recordFormat {
			again(t, r, encodeRecord, decodeRecord)
		}
	})
}

// again checks that what was read is read again from what it is written as.
func again[T comparable](t *testing.T, v T, encode func(T) ([]byte, error), decode func([]byte) (T, error)) {
	t.Helper()
	text, err := encode(v)
	if err != nil {
		t.Fatal(err)
	}
	if back, err := decode(text); err != nil || back != v {
		t.Fatalf("%+v, written as %s, reads as %+v, %v", v, text, back, err)
	}
}
