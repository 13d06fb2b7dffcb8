package bench

import (
	"encoding/binary"
	"encoding/json"
	"errors"
)

// packed is numbers on their way to another process: in JSON a string of
// variable-length integers.
type packed []int64

var errPacked = errors.New("bench: numbers from another process do not decode")

// MarshalJSON implements json.Marshaler.
func (p packed) MarshalJSON() ([]byte, error) {
	var out []byte
	for _, v := range p {
		out = binary.AppendVarint(out, v)
	}
	return json.Marshal(out) //nolint:wrapcheck // bytes always encode
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *packed) UnmarshalJSON(text []byte) error {
	var in []byte
	if err := json.Unmarshal(text, &in); err != nil {
		return err //nolint:wrapcheck // the decoder's own
	}
	*p = nil
	for len(in) > 0 {
		v, n := binary.Varint(in)
		if n <= 0 {
			return errPacked
		}
		*p, in = append(*p, v), in[n:]
	}
	return nil
}
