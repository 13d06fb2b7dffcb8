package bench

// Replies are kept up to this many bytes per run, some 100 M of them.
const maxReplyBytes = 128 << 20

// replies is the rising row of values that one worker was answered, kept as
// differences of variable length: one or two bytes each.
type replies struct {
	last   int64
	limit  int // bytes that this worker may use
	used   int
	chunks [][]byte
	cut    bool // whether some were not kept
}

const replyChunk = 64 << 10

func (r *replies) add(v int64) {
	if r.used+10 > r.limit {
		r.cut = true
		return
	}
	n := len(r.chunks) - 1
	if n < 0 || len(r.chunks[n])+10 > cap(r.chunks[n]) {
		r.chunks = append(r.chunks, make([]byte, 0, min(replyChunk, r.limit)))
		n++
	}
	c := r.chunks[n]
	for d := uint64(v - r.last); ; d >>= 7 { //nolint:gosec // values rise
		r.used++
		if d < 0x80 {
			c = append(c, byte(d))
			break
		}
		c = append(c, byte(d)|0x80)
	}
	r.chunks[n], r.last = c, v
}

// each calls f for every value in order.
func (r *replies) each(first int64, f func(int64)) {
	v := first
	for _, c := range r.chunks {
		var d uint64
		var shift uint
		for _, b := range c {
			d |= uint64(b&0x7f) << shift
			if shift += 7; b < 0x80 {
				v += int64(d) //nolint:gosec // was one
				f(v)
				d, shift = 0, 0
			}
		}
	}
}

// maxReplySpan bounds the bitmap in which values that came twice are found.
const maxReplySpan = 8 * maxReplyBytes

// findRepeats notes every value that more than one add was answered with. It
// returns false where that could not be checked for all replies.
func findRepeats(first int64, all []*replies, broken *violations) bool {
	top, complete := first, true
	for _, r := range all {
		top, complete = max(top, r.last), complete && !r.cut
	}
	span := top - first
	if span < 0 || span > maxReplySpan {
		return false
	}
	seen := make([]uint64, span/64+1)
	for _, r := range all {
		r.each(first, func(v int64) {
			i := uint64(v - first) //nolint:gosec // values rise
			word, bit := i/64, uint64(1)<<(i%64)
			if seen[word]&bit != 0 {
				broken.note("two adds were both answered %d", v)
			}
			seen[word] |= bit
		})
	}
	return complete
}
