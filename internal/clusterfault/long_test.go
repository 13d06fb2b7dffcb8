//go:build long

package clusterfault

import "time"

// fault is how long a fault lasts.
const fault = 30 * time.Second
