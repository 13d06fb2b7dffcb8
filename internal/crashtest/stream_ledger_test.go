package crashtest

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/quern-io/quern/failure"
)

// ledger is what all clients know of the counters. Deltas are positive.
type ledger struct {
	mu      sync.Mutex // guards what follows
	entries map[string]*entry
	acked   int
	unknown int
	refused int
	wrong   []string
}

// entry is what is known of one counter.
type entry struct {
	acked, unknown int64
	// highest is what any reply has shown.
	highest int64
	spans   []span
}

// span is an acknowledged add: it took the counter from one value to another.
type span struct {
	From int64 `json:"f"`
	To   int64 `json:"t"`
}

func newLedger() *ledger { return &ledger{entries: make(map[string]*entry)} }

// entry needs mu.
func (l *ledger) entry(key string) *entry {
	e := l.entries[key]
	if e == nil {
		e = new(entry)
		l.entries[key] = e
	}
	return e
}

// floor is a value that the counter has reached: an operation that begins now
// must see it.
func (l *ledger) floor(key string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.entry(key).highest
}

// add takes the end of an add that was begun when the floor was as given.
func (l *ledger) add(key string, delta, floor, value int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(key)
	switch {
	case err == nil:
		l.acked++
		e.acked += delta
		e.spans = append(e.spans, span{value - delta, value})
		e.highest = max(e.highest, value)
		if value-delta < floor {
			l.wrongf("%s: an add of %d that began at %d or above returned %d", key, delta, floor, value)
		}
	case failure.OutcomeOf(err) == failure.Unknown:
		l.unknown++
		e.unknown += delta
	default:
		l.refused++
	}
}

// read takes a value that was read since the floor was as given.
func (l *ledger) read(key string, floor, value int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entry(key)
	e.highest = max(e.highest, value)
	if value < floor {
		l.wrongf("%s: a read that began at %d or above returned %d", key, floor, value)
	}
}

// wrongf needs mu.
func (l *ledger) wrongf(format string, args ...any) {
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// fail notes something that must not be.
func (l *ledger) fail(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrongf(format, args...)
}

// close compares the counters with what is known of them and returns all that
// was wrong.
func (l *ledger) close(values map[string]int64) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, e := range l.entries {
		value := values[key]
		switch {
		case value < e.acked:
			l.wrongf("%s: LOST: %d, acknowledged %d, unknown %d", key, value, e.acked, e.unknown)
		case value > e.acked+e.unknown:
			l.wrongf("%s: DOUBLED: %d, acknowledged %d, unknown %d", key, value, e.acked, e.unknown)
		case value < e.highest:
			l.wrongf("%s: UNDONE: %d, a reply showed %d", key, value, e.highest)
		}
		for _, pair := range overlaps(e.spans) {
			l.wrongf("%s: %s", key, pair)
		}
	}
	return l.wrong
}

// overlaps finds adds that were told the same step of their counter, or parts
// of it.
func overlaps(spans []span) []string {
	var all []string
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.To, b.To) })
	for i := 1; i < len(spans); i++ {
		if a, b := spans[i-1], spans[i]; b.From < a.To {
			all = append(all, fmt.Sprintf("one add was told %d to %d, another %d to %d", a.From, a.To, b.From, b.To))
		}
	}
	return all
}
