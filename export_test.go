package quern

import "time"

// WithClock returns c with a clock in place of CLOCK_BOOTTIME.
func (c Config) WithClock(clock func() time.Duration) Config {
	c.clock = clock
	return c
}
