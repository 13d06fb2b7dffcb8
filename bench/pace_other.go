//go:build !linux

package bench

import "time"

// sleep returns after about d.
func sleep(d time.Duration) { <-time.NewTimer(d).C }
