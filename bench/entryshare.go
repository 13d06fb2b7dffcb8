package bench

import "fmt"

// entryPart is what a process knows of the map entries that it put.
type entryPart struct {
	// By key: the puts that were acknowledged, and the last one's version
	// and stamp.
	Puts     packed          `json:"puts"`
	Versions packed          `json:"versions"`
	Stamps   packed          `json:"stamps"`
	Unknowns map[int][]stamp `json:"unknowns"`
}

// opened packs what the keys held before the load.
func (l *entryLedger) opened() (versions, sums packed) {
	for i := range l.accounts {
		versions = append(versions, int64(l.accounts[i].top)) //nolint:gosec // bits on their way
		sums = append(sums, int64(l.accounts[i].sum))
	}
	return versions, sums
}

func (l *entryLedger) takeOpened(versions, sums packed) error {
	if len(versions) != len(sums) {
		return fmt.Errorf("%w: %d versions and %d checksums", errPacked, len(versions), len(sums))
	}
	for k, v := range versions {
		l.open(k, uint64(v), uint32(sums[k]), false) //nolint:gosec // bits that opened sent
	}
	return nil
}

// part may be called when the load is over.
func (l *entryLedger) part() *entryPart {
	p := &entryPart{Unknowns: l.unknown}
	for i := range l.accounts {
		a := &l.accounts[i]
		p.Puts = append(p.Puts, a.puts)
		p.Versions = append(p.Versions, int64(a.top)) //nolint:gosec // bits on their way
		p.Stamps = append(p.Stamps, int64(a.last))    //nolint:gosec // as above
	}
	return p
}

// merge adds what another process put.
func (l *entryLedger) merge(p *entryPart) error {
	n := len(l.accounts)
	if p == nil || len(p.Puts) != n || len(p.Versions) != n || len(p.Stamps) != n {
		return fmt.Errorf("%w: not all of %d map entries", errPacked, n)
	}
	for k, puts := range p.Puts {
		l.acked(k, puts, uint64(p.Versions[k]), stamp(p.Stamps[k])) //nolint:gosec // bits that part sent
	}
	for k, all := range p.Unknowns {
		for _, s := range all {
			l.uncertain(k, s)
		}
	}
	return nil
}
