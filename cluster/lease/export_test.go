package lease

// Omitted names a rule that a test switches off.
type Omitted string

// The rules that can be switched off.
const (
	NoWait    Omitted = "no taker wait"
	NoGap     Omitted = "trust returns by itself after a gap"
	FromEnd   Omitted = "trust counts from the end of a proof"
	AnyEpoch  Omitted = "an epoch that is not above the store's is served"
	NoMargin  Omitted = "no margin"
	NoOmitted Omitted = ""
)

// Omit switches a rule off.
func (m *Machine) Omit(rule Omitted) {
	switch rule {
	case NoWait:
		m.omit.wait = true
	case NoGap:
		m.omit.gap = true
	case FromEnd:
		m.omit.start = true
	case AnyEpoch:
		m.omit.store = true
	case NoMargin:
		m.cfg.Margin = 0
	case NoOmitted:
	}
}
