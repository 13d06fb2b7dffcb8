package embedded

// Hooks are the deliberate faults that tests switch on.
type Hooks struct {
	SkipSync, ShowBeforeSync, DropBeforeFlush, Lenient, KeepOldTail bool
	// Reached is called at named points, sometimes by several goroutines.
	Reached func(point string)
}

// WithHooks returns o with hooks set.
func (o Options) WithHooks(h Hooks) Options {
	o.hooks = &hooks{
		skipSync: h.SkipSync, showBeforeSync: h.ShowBeforeSync, dropBeforeFlush: h.DropBeforeFlush,
		lenient: h.Lenient, keepOldTail: h.KeepOldTail, reached: h.Reached,
	}
	return o
}
