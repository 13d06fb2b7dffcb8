// Package faultstream is a network for tests: it carries frame streams between
// clients and one server in memory, and does to them what networks do. All of
// it comes from a seed, and what was done can be printed; its times are those
// of a testing/synctest bubble.
//
// A stream is reliable: its frames arrive whole, in order and once. So a frame
// that is lost is lost together with all that follow it, and the faults are:
//
//   - delays of single frames, and stalls of seconds;
//   - flow control: a sender waits while some frames are under way;
//   - a cut: both ends fail at once, what is under way is lost;
//   - a late cut: the client's end fails, the server's goes on; it gets what
//     was under way up to half a minute later, while the client has moved on;
//   - a mute direction: nothing arrives any more and neither end is told;
//   - a half-close: the server sees the end of the client's frames and answers
//     the rest;
//   - streams that are refused, slow to open or never greeted.
//
// Frames of a client may also be replayed, at once or much later. A frame is
// only meant for its own stream, whose numbers for methods and sessions it
// uses. So a replay goes to the server on a stream of its own, behind what
// those frames rely on, and its answers reach nobody. Operations that were
// refused as not done are left out: a repeat of these is another attempt, which
// the refusal does not speak of.
package faultstream
