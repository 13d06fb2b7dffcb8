package failure

// cause implements what NewCause returns.
type cause struct {
	text   string
	reason Reason
}

// NewCause returns a sentinel for those who are no node themselves, as a store
// is: an error with this text, whose method Reason is what callers are told
// where nothing was done.
func NewCause(reason Reason, text string) error { return &cause{text, reason} }

func (c *cause) Error() string { return c.text }

// Reason is what callers are told.
func (c *cause) Reason() Reason { return c.reason }
