// Package frame encodes and decodes the frames of GrainService.Stream by hand,
// as package proto would, since they are what a node and a client spend most
// of their time on under load. Repeated parts are appended one by one and read
// one by one: no message of a frame is ever built.
//
// Append functions return the extended buffer. What a Read function hands to
// its visitor points into the frame; only the visitor may make it outlive the
// frame's buffer, by copying.
package frame
