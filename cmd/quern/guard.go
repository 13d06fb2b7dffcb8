package main

import (
	"strconv"
	"strings"

	"github.com/quern-io/quern/handles"
	quernv1 "github.com/quern-io/quern/messages/quern/v1"
)

// guard is a lock and a fencing token of it, as a flag has them. The key may
// have colons; the token has none.
type guard handles.Guard

// UnmarshalText implements encoding.TextUnmarshaler.
func (g *guard) UnmarshalText(text []byte) error {
	at := strings.LastIndexByte(string(text), ':')
	if at <= 0 {
		return usagef("%q is not LOCKKEY:TOKEN", text)
	}
	token, err := strconv.ParseUint(string(text[at+1:]), 10, 64)
	if err != nil || token == 0 {
		return usagef("%q: the token behind the last colon is not a decimal number above 0", text)
	}
	*g = guard{Lock: string(text[:at]), Token: token}
	return nil
}

// guarded is the flag of commands that write.
type guarded struct {
	Guard *guard `placeholder:"LOCKKEY:TOKEN" help:"Refuse where the key was written under a higher fencing token of this lock."`
}

func (g guarded) message() *quernv1.Guard {
	if g.Guard == nil {
		return nil
	}
	return &quernv1.Guard{Lock: g.Guard.Lock, Token: g.Guard.Token}
}

// guards returns a handle that carries the flag's guard.
func (g guarded) guards(lock handles.Lock) handles.Lock {
	if g.Guard == nil {
		return lock
	}
	return lock.Guarded(handles.Guard(*g.Guard))
}
