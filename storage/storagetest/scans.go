package storagetest

import (
	"fmt"

	"github.com/quern-io/quern/actors"
)

func testScanOrderAndBounds(f *fixture) {
	f.raise(2, 1)
	all := map[string]string{}
	for i := range 300 {
		key := name(i * 7 % 300)
		all[key] = fmt.Sprint(i)
		f.commit(2, 1, set(key, all[key]))
	}
	for i := 0; i < 300; i += 10 {
		delete(all, name(i))
		f.commit(2, 1, del(name(i)))
	}
	ranges := [][2]string{
		{"", ""},
		{"", name(50)},
		{name(50), ""},
		{name(40), name(60)},
		{name(41), name(42)},
		{name(40), name(41)},
		{name(60), name(40)},
		{name(60), name(60)},
		{"key", "key:"},
		{"zzz", ""},
		{name(60) + "\x00", name(62)},
	}
	for _, r := range ranges {
		want := map[string]string{}
		for key, value := range all {
			if key >= r[0] && (r[1] == "" || key < r[1]) {
				want[key] = value
			}
		}
		f.want(fmt.Sprintf("scan [%q, %q)", r[0], r[1]), f.scan(2, r[0], r[1]), want)
	}
}

func testScanStops(f *fixture) {
	f.raise(2, 1)
	for i := range 20 {
		f.commit(2, 1, set(name(i), "v"))
	}
	n := 0
	err := f.store.Scan(f.ctx, 2, nil, nil, func(_, _ []byte) bool {
		n++
		return n < 5
	})
	if err != nil || n != 5 {
		f.Errorf("%d yields, %v; want 5", n, err)
	}
}

// testScanDuringCommit commits from within a scan: a scan sees of each key what
// was there when it began, or later.
func testScanDuringCommit(f *fixture) {
	f.raise(2, 1)
	const keys = 50
	for i := range keys {
		f.commit(2, 1, set(name(i), "old"))
	}
	seen := 0
	err := f.store.Scan(f.ctx, 2, nil, nil, func(_, value []byte) bool {
		if v := string(value); v != "old" && v != "new" {
			f.Errorf("value %q", v)
		}
		if seen%10 == 0 {
			f.commit(2, 1, set(name(seen), "new"), set(name(keys-1-seen), "new"))
		}
		seen++
		return true
	})
	if err != nil || seen != keys {
		f.Errorf("%d records, %v; want %d", seen, err, keys)
	}
	v := f.tryCommit(actors.Batch{Shard: 2, Epoch: 1, Records: []actors.Record{set("after", "x")}})
	if v.Status != actors.Done {
		f.Errorf("commit after the scan: %+v", v)
	}
}
