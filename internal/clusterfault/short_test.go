//go:build !long

package clusterfault

import "time"

const (
	// fault is how long a fault lasts.
	fault = 8 * time.Second
	// long says that there is time for what takes long.
	long = false
)
