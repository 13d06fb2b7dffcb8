package bench

import (
	"hash/crc32"
	"sync"
)

// entryLedger is what the run knows of each map entry: the last put that was
// acknowledged, and those whose outcome is not known.
type entryLedger struct {
	accounts []entryAccount // by key; guarded by the key's lock
	locks    [256]sync.Mutex
	// anything says that any put to any key perhaps happened.
	anything bool

	mu      sync.Mutex
	unknown map[int][]stamp // by key; guarded by mu
}

// entryAccount is one key's.
type entryAccount struct {
	// top is the highest version that a put was answered, last that put;
	// before the first one what was there before the load.
	top  uint64
	last stamp
	puts int64 // acknowledged
	// sum is the checksum of the value before the load.
	sum uint32
	// made says that the run gave the key its first value.
	made bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func newEntryLedger(keys int) *entryLedger {
	return &entryLedger{accounts: make([]entryAccount, keys), unknown: make(map[int][]stamp)}
}

// lock returns the account of key k, and what gives it back.
func (l *entryLedger) lock(k int) (*entryAccount, *sync.Mutex) {
	mu := &l.locks[k%len(l.locks)]
	mu.Lock()
	return &l.accounts[k], mu
}

// open notes what key k holds before the load.
func (l *entryLedger) open(k int, version uint64, sum uint32, made bool) {
	a, mu := l.lock(k)
	defer mu.Unlock()
	a.top, a.sum, a.made = version, sum, made
}

// floor is the version that a put which begins now must exceed.
func (l *entryLedger) floor(k int) uint64 {
	a, mu := l.lock(k)
	defer mu.Unlock()
	return a.top
}

// acked notes n acknowledged puts, the last of which got this version.
func (l *entryLedger) acked(k int, n int64, version uint64, s stamp) {
	a, mu := l.lock(k)
	defer mu.Unlock()
	if a.puts += n; version > a.top {
		a.top, a.last = version, s
	}
}

// uncertain notes a put of unknown outcome.
func (l *entryLedger) uncertain(k int, s stamp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unknown[k] = append(l.unknown[k], s)
}

// compare adds key k, whose entry is now as found, to the tally. Of a key the
// last put alone can be seen, so that it stands for all before it: where it is
// not there one counts as lost, where another is there that nobody can have
// made one counts as doubled. It may be called when the load is over.
func (l *entryLedger) compare(t *tally, k int, found entryFound) {
	a := &l.accounts[k]
	t.acked += a.puts
	t.applied += a.puts
	switch {
	case found.version < a.top:
		t.lost++
		t.applied--
	case found.version == a.top && found.holds(a):
	case found.version == a.top: // another value under the same version
		t.lost++
		t.doubled++
	case l.anything || l.isUnknown(k, found.stamp):
		t.applied++
	default:
		t.doubled++
		t.applied++
	}
}

func (l *entryLedger) isUnknown(k int, s stamp) bool {
	for _, u := range l.unknown[k] {
		if u == s && s != 0 {
			return true
		}
	}
	return false
}

// entryFound is an entry that was read back.
type entryFound struct {
	version uint64
	sum     uint32
	stamp   stamp // 0 where the value is none of this run's
}

// holds says whether the value is that of the account's last put, or the one
// from before the load.
func (f entryFound) holds(a *entryAccount) bool {
	if a.last == 0 {
		return f.sum == a.sum
	}
	return f.stamp == a.last
}
