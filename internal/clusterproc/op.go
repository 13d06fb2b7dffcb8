package clusterproc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Kind is what an operation did.
type Kind uint8

// The kinds.
const (
	Add     Kind = iota // adds one to a counter; the value is the new one
	Get                 // reads a counter
	Grant               // asks for a lock; the value is the token
	Release             // gives back the lock of the token that is the value
)

// Outcome is what a client learnt of an operation.
type Outcome uint8

// The outcomes.
const (
	Done Outcome = iota
	NotDone
	Unknown
)

// Op is one operation as its client saw it. Times are in nanoseconds of a clock
// that all processes of the machine share.
type Op struct {
	Kind    Kind
	Outcome Outcome
	// Side is the client's, who knows the node of its side only, or all nodes.
	Side uint8
	Only bool
	// Node is the number of the one that has answered, 0 where not known.
	Node uint8
	// Key is the number of a counter or of a lock.
	Key   uint32
	Shard uint32
	// Epoch is 0 where it is not known.
	Epoch uint64
	Value int64
	// Due is when the operation should have been sent, Sent when it was.
	Due, Sent, End int64
}

// OpWriter writes operations. It belongs to one goroutine at a time.
type OpWriter struct{ b *bufio.Writer }

// NewOpWriter returns a writer to w.
func NewOpWriter(w io.Writer) *OpWriter { return &OpWriter{bufio.NewWriter(w)} }

// Write writes one operation.
func (w *OpWriter) Write(op *Op) error {
	if err := binary.Write(w.b, binary.LittleEndian, op); err != nil {
		return fmt.Errorf("clusterproc: %w", err)
	}
	return nil
}

// Flush hands on what was written.
func (w *OpWriter) Flush() error {
	if err := w.b.Flush(); err != nil {
		return fmt.Errorf("clusterproc: %w", err)
	}
	return nil
}

// ReadOps reads what an OpWriter has written, to its end.
func ReadOps(r io.Reader) ([]Op, error) {
	b := bufio.NewReader(r)
	var ops []Op
	for {
		var op Op
		switch err := binary.Read(b, binary.LittleEndian, &op); {
		case errors.Is(err, io.EOF):
			return ops, nil
		case err != nil:
			return nil, fmt.Errorf("clusterproc: %w", err)
		}
		ops = append(ops, op)
	}
}
