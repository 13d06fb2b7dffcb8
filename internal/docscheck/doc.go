// Package docscheck holds no code. Its tests hold the documentation to the
// code: what it names must exist.
package docscheck
