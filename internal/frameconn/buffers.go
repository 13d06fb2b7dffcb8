package frameconn

import "sync"

// The sizes of buffers, which are shared by all connections. What is larger is
// garbage after its use.
var buffers = [...]struct {
	size int
	free *sync.Pool
}{
	{leastBuffer, new(sync.Pool)}, {64 << 10, new(sync.Pool)}, {256 << 10, new(sync.Pool)}, {1 << 20, new(sync.Pool)},
}

const leastBuffer = 16 << 10

// getBuffer returns a buffer of at least n bytes.
func getBuffer(n int) *[]byte {
	for _, c := range buffers {
		if n > c.size {
			continue
		}
		if b, ok := c.free.Get().(*[]byte); ok {
			return b
		}
		n = c.size
		break
	}
	b := make([]byte, n)
	return &b
}

func putBuffer(b *[]byte) {
	for _, c := range buffers {
		if len(*b) == c.size {
			c.free.Put(b)
			return
		}
	}
}
