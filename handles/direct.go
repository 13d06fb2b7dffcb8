package handles

// Direct runs operations one after the other, each to its end, on the goroutine
// that calls it. One goroutine uses it at a time.
type Direct interface {
	// Begin is called before the first of some operations that follow one
	// another without a pause.
	Begin()
	// Try runs an operation whose key, of any bytes, stands beside it: neither
	// op nor its request has it, and the key is not kept. The operation is
	// Placed, and has no idempotency key, no guard and no deadline.
	//
	// It returns false, and nothing has happened, where the operation would
	// have to wait for something or needs a closer look: then it is to be
	// submitted. Else the answer is durable where answers are, the reply is
	// filled in, or err is the *failure.Error instead, and op.Origin says who
	// answered. Where the reply is encoded already, op.Passage has it until the
	// next operation.
	Try(op *Operation, key []byte) (done bool, err error)
}

// Director is a Submitter that can run operations at once.
type Director interface {
	// Direct returns a Direct for one goroutine; nil where operations always
	// have to wait.
	Direct() Direct
}
